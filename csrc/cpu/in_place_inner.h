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

// Where a tile's spots lie in maps whose images are x_image and y_image elements apart.  x starts at
// the tile, y at the batch.
void place_spots(const InPlaceMap& map, const InPlaceTile& tile, int64_t x_image, int64_t y_image,
                 std::vector<Spot>* spots);

// The rows of a group for spots whose x is placed, in `buffer`.
const float* compute_inner(const InPlaceInner& inner, const std::vector<Spot>& spots, int64_t lanes,
                           int64_t group, const float* x, Buffer<float>* buffer,
                           const Parallel& parallel);

}  // namespace fbconv
