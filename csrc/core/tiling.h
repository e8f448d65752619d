// How a sweep is cut into tiles that fit a core's cache, and how a tile is laid out.
//
// A packed source tile is [channel][phase][image][row][width], flat within a channel.  Its rows are
// `reach` wider and its images `reach` taller than the grid, so that a tap is a constant offset for
// every position; the positions in those margins are computed too and thrown away.
#pragma once

#include "sweep.h"

namespace fbconv {

struct Tiling {
  int64_t images, rows;               // of the grid, per tile
  int64_t width, source_rows, plane;  // flat layout: plane = images * source_rows * width
  int64_t pitch;                      // elements between source channels, zero behind the planes
  int64_t positions;                  // flat grid positions, rounded up to whole vectors
  int64_t image_blocks, row_blocks;

  int64_t tiles() const { return image_blocks * row_blocks; }
};

// One tile's place in the batch and in the grid.
struct Tile {
  int64_t image, images;  // first, count
  int64_t row, rows;      // first (counted from the grid's first), count
};

// `channels_held` is how many channels of flat positions a thread keeps at once (source phases,
// intermediate and output rows together); it decides how many positions fit the cache budget.
Tiling make_tiling(const Sweep& sweep, int64_t batch, int64_t channels_held, int64_t element_size,
                   int64_t lanes, int64_t threads);
Tile tile_at(const Tiling& tiling, const Sweep& sweep, int64_t batch, int64_t number);

// A row pitch of at least `count`, an odd number of vectors: power-of-two pitches map all channels
// onto the same cache sets.
int64_t odd_pitch(int64_t count, int64_t lanes);

// Row lists hold 32-bit offsets: throws std::length_error if `channels` of `pitch` lie beyond them.
void require_reachable(int64_t channels, int64_t pitch);

}  // namespace fbconv
