// How a sweep is cut into tiles that fit a core's cache, and how a tile lies in scratch.
//
// Kernels load whole vectors.  A load that crosses a cache line costs two, so the lanes of a vector
// are chosen such that every tap of every grid point is an aligned vector wherever that is worth
// its price:
//   images   lane = image: a tap is a whole number of vectors away.  For batches; costs a
//            transposition on the way in and out.
//   columns  lanes = neighbouring pixels of a row; the source is packed once for every horizontal
//            shift a tap has.  For wide maps.
//   taps     lanes = neighbouring pixels of a map; the source is packed once for every tap.  For
//            single small maps, of which several rows share a vector.
//   plain    lanes = neighbouring pixels of a row, packed once: loads are not aligned, and lanes
//   beyond
//            a line hold what comes next.  For the sparsest gathers on wide maps.
#pragma once

#include <initializer_list>

#include "sweep.h"

namespace fbconv {

enum class Lanes { kImages, kColumns, kTaps, kPlain };

// A tile's grid points lie in `lines` lines of `line` vectors.  A source plane is one shifted copy
// of one phase of one channel, with lines `source_line` elements apart.
struct Tiling {
  Lanes kind;
  int64_t lanes;
  int64_t images, rows;  // of the grid, per tile
  int64_t lines, line;
  int64_t source_lines, source_line;
  int64_t plane;       // elements of a source plane: an odd number of vectors
  int64_t grid_pitch;  // elements between lists of grid points: likewise
  int64_t image_blocks, row_blocks;

  int64_t tiles() const { return image_blocks * row_blocks; }
  int64_t vectors() const { return tiles() * lines * line; }  // of a whole batch's grid
  bool copies_columns() const { return kind == Lanes::kColumns || kind == Lanes::kTaps; }
  bool copies_rows() const { return kind == Lanes::kTaps; }
};

// One tile's place in the batch and in the grid.
struct Tile {
  int64_t image, images;  // first, count
  int64_t row, rows;      // first (counted from the grid's first), count
};

// What a pass holds and does per grid point, by which lanes and tile sizes are chosen.
struct Workload {
  int64_t batch;
  int64_t source_channels;
  int64_t entries;      // multiply-adds
  int64_t inner_lists;  // further lists of grid points held, beside the source
  int64_t out_lists;
  int64_t element_size, lanes, threads;
};

// What a pass over a whole batch does, in vectors: the multiply-adds of its entries, and what it
// copies or transposes into tiles and back.
struct Effort {
  double multiplied, copied, transposed;
};
Effort effort(const Sweep& sweep, const Workload& work, Lanes kind);

// The cheapest of some kinds of lanes for a sweep.
Lanes choose_lanes(const Sweep& sweep, const Workload& work, std::initializer_list<Lanes> kinds);
Tiling make_tiling(const Sweep& sweep, const Workload& work, Lanes kind);
Tile tile_at(const Tiling& tiling, const Sweep& sweep, int64_t batch, int64_t number);

// Source planes per channel if every tap is used.
int64_t planes_per_channel(const Sweep& sweep, Lanes kind);

// A pitch of at least `count` elements, an odd number of vectors: power-of-two pitches map all
// channels onto the same cache sets.
int64_t odd_pitch(int64_t count, int64_t lanes);

// Row lists hold 32-bit offsets: throws std::length_error if `planes` of `pitch` lie beyond them.
void require_reachable(int64_t planes, int64_t pitch);

}  // namespace fbconv
