// How a batch of maps that are read where they lie is cut into tiles.
#pragma once

#include "../core/in_place.h"
#include "../core/parallel.h"
#include "kernels.h"

namespace fbconv {

// A tile is either some whole images, or some lines of one image.
struct InPlaceTiling {
  int64_t images, lines;  // per tile
  int64_t image_tiles, line_tiles;
  // Elements between channels of a tile's copy of the source, and between images of one channel; 0
  // where the source itself is read.
  int64_t copy_pitch, copy_image;

  int64_t tiles() const { return image_tiles * line_tiles; }
  int64_t spots(const InPlaceMap& map) const { return images * lines * map.line_vectors; }
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
  int64_t image, images, line, lines;
};
InPlaceTile in_place_tile(const InPlaceTiling& tiling, const InPlaceMap& map, int64_t batch,
                          int64_t number);

// A map as a tile's spots see it: where the first of them lies in channel 0, and how far it is to
// the next image and the next line.
template <typename T>
struct SpotView {
  T* data;
  int64_t image_step, line_step;

  int64_t offset(int64_t image, int64_t line, int64_t first) const {
    return image * image_step + line * line_step + first;
  }
};
// A map that lies flat, from a tile on.
template <typename T>
SpotView<T> flat_spots(const InPlaceMap& map, const InPlaceTile& tile, MapView<T> whole) {
  return {whole.data + tile.image * whole.batch_stride + tile.line * map.line_pixels(),
          whole.batch_stride, map.line_pixels()};
}
// Channels [0, channels) of the source, or of a copy in `buffer`, made by `parallel`.
template <typename T>
SpotView<const T> in_place_source(const InPlaceTiling& tiling, const InPlaceMap& map,
                                  const InPlaceTile& tile, MapView<const T> source,
                                  int64_t channels, Buffer<T>* buffer, const Parallel& parallel);

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
