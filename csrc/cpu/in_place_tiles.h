// How a batch of maps that are read where they lie is cut into tiles.
#pragma once

#include "../core/in_place.h"
#include "../core/parallel.h"
#include "kernels.h"

namespace fbconv {

// A tile is either some whole images, or some vectors of one image.
struct InPlaceTiling {
  int64_t images, vectors;  // per tile
  int64_t image_tiles, vector_tiles;
  // Elements between channels of a tile's copy of the source, and between images of one channel; 0
  // where the source itself is read.
  int64_t copy_pitch, copy_image;

  int64_t tiles() const { return image_tiles * vector_tiles; }
  int64_t spots() const { return images * vectors; }
  bool copies() const { return copy_pitch > 0; }
  // Elements between channels of what is read.
  int64_t source_pitch(const InPlaceMap& map) const { return copies() ? copy_pitch : map.pixels; }
};
// For `channels` of source and output together, and up to `most` spots in a tile.
constexpr int64_t kMostSpots = 64;
InPlaceTiling tile_in_place(const InPlaceMap& map, int64_t batch, int64_t channels,
                            int64_t element_size, int64_t threads, int64_t most = kMostSpots);

// One tile's place: first, count.
struct InPlaceTile {
  int64_t image, images, vector, vectors;
};
InPlaceTile in_place_tile(const InPlaceTiling& tiling, const InPlaceMap& map, int64_t batch,
                          int64_t number);

// What a tile reads: where its first vector of its first image lies in channel 0, and how far apart
// vectors of neighbouring images are.
template <typename T>
struct InPlaceSource {
  const T* data;
  int64_t image_step;
};
// Channels [0, channels) of the source, or of a copy in `buffer`, made by `parallel`.
template <typename T>
InPlaceSource<T> in_place_source(const InPlaceTiling& tiling, const InPlaceMap& map,
                                 const InPlaceTile& tile, MapView<const T> source, int64_t channels,
                                 Buffer<T>* buffer, const Parallel& parallel);

// Whether a map's rows, and its channels, follow each other without a gap.
template <typename T>
bool lies_flat(const ConvGeometry& g, const MapView<T>& map) {
  return map.column_stride == 1 && map.row_stride == g.in_w &&
         map.channel_stride == g.in_h * g.in_w;
}

template <typename T>
MapView<const T> read_only(const MapView<T>& map) {
  return {map.data, map.batch_stride, map.channel_stride, map.row_stride, map.column_stride};
}

// Whether a pass over these maps can be done in place, and is better done so: few lanes stay empty.
template <typename T>
bool suits_in_place(const ConvGeometry& g, const MapView<const T>& a, const MapView<const T>& b) {
  const int64_t lanes = kernels<T>().lanes, pixels = g.in_h * g.in_w;
  const bool filled = 4 * pixels >= 3 * ((pixels + lanes - 1) / lanes * lanes);
  return kernels<T>().masked_gather != nullptr && filled && g.taps() < kMostMasks &&
         reads_in_place(g) && lies_flat(g, a) && lies_flat(g, b);
}

}  // namespace fbconv
