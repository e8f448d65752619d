// Rows that are computed for a tile's spots and never leave it: the planes of a second factor, or the
// gradient rows of a correlation.
#pragma once

#include "in_place_tiles.h"
#include "pattern_jit.h"

namespace fbconv {

// inner = lists * source.  Of its rows a group of the lists exists at a time, `pitch` elements
// apart, spot after spot.
struct InPlaceInner {
  const CompiledLists* lists = nullptr;
  int64_t rows = 0, pitch = 0;
  const float* values = nullptr;
};

// As many zeros as asked for, the calling thread's own.
const float* zeros(int64_t count);

// All spots of a tile, as they lie in two maps.
void place_spots(const InPlaceMap& map, const InPlaceTile& tile, const SpotView<const float>& x,
                 const SpotView<const float>& y, std::vector<Spot>* spots);

// Rows of spots without gaps, as inner ones are.
template <typename T>
SpotView<T> row_spots(const InPlaceMap& map, const InPlaceTile& tile, T* rows) {
  return {rows, tile.lines * map.line_pixels(), map.line_pixels()};
}

// The rows of a group, in `buffer`; spots hold where a tile's lie in the source and in a row.
const float* compute_inner(const InPlaceInner& inner, const std::vector<Spot>& spots, int64_t group,
                           const float* source, Buffer<float>* buffer, const Parallel& parallel);

}  // namespace fbconv
