// How a batch of maps that are read where they lie is cut into tiles.
#pragma once

#include "../core/in_place.h"
#include "../core/parallel.h"

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
// For `channels` of source and output together.
InPlaceTiling tile_in_place(const InPlaceMap& map, int64_t batch, int64_t channels,
                            int64_t element_size, int64_t threads);

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

}  // namespace fbconv
