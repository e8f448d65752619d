#include "tiling.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace fbconv {
namespace {

// Tiles stay in a core's second cache.  Packing images is so dear that what neighbouring tiles
// would pack twice costs more than a source that does not quite fit: it is read block by block
// anyway.
constexpr int64_t kTileBytes = 480 * 1024, kImageTileBytes = 1200 * 1024;
// One vector packed (copied with a mask, or transposed) and one unaligned multiply-add, against an
// aligned multiply-add, all of them waiting for the second cache now and then.
constexpr double kCopyCost = 5, kTransposeCost = 14, kUnalignedCost = 1.8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Vectors that hold an image's grid.
double grid_vectors(const Sweep& s, const Workload& work, Lanes kind) {
  const int64_t lanes = work.lanes, points = s.h.grid * s.w.grid;
  if (kind == Lanes::kImages) {
    return static_cast<double>(points * ceil_div(work.batch, lanes)) / work.batch;
  }
  return static_cast<double>(kind == Lanes::kTaps ? ceil_div(points, lanes)
                                                  : s.h.grid * ceil_div(s.w.grid, lanes));
}

double cost(const Sweep& s, const Workload& work, Lanes kind) {
  const Effort e = effort(s, work, kind);
  return e.multiplied + kCopyCost * e.copied + kTransposeCost * e.transposed;
}

// Bytes that a tile of `rows` grid rows of `images` images takes.
int64_t tile_bytes(const Sweep& s, const Workload& work, Lanes kind, int64_t images, int64_t rows) {
  const int64_t lines = kind == Lanes::kTaps ? rows : rows + s.h.reach;
  const int64_t width = kind == Lanes::kTaps      ? s.w.grid
                        : kind == Lanes::kColumns ? ceil_div(s.w.grid, work.lanes) * work.lanes
                                                  : s.w.grid + s.w.reach;
  const int64_t source = work.source_channels * planes_per_channel(s, kind) * lines * width;
  const int64_t grid = (work.inner_lists + work.out_lists) * rows * width;
  return (source + grid) * images * work.element_size;
}

}  // namespace

int64_t odd_pitch(int64_t count, int64_t lanes) { return (ceil_div(count, lanes) | 1) * lanes; }

void require_reachable(int64_t planes, int64_t pitch) {
  if (planes > std::numeric_limits<int32_t>::max() / pitch) {
    throw std::length_error(
        "a row of the map, padding included, with all its channels must stay below 2^31 "
        "elements, got " +
        std::to_string(planes) + " planes of " + std::to_string(pitch));
  }
}

int64_t planes_per_channel(const Sweep& s, Lanes kind) {
  const int64_t down = kind == Lanes::kTaps ? s.h.copies : s.h.source.phases;
  const bool copied = kind == Lanes::kColumns || kind == Lanes::kTaps;
  return down * (copied ? s.w.copies : s.w.source.phases);
}

Effort effort(const Sweep& s, const Workload& work, Lanes kind) {
  const double vectors = grid_vectors(s, work, kind) * static_cast<double>(work.batch);
  const int64_t lists = work.source_channels * planes_per_channel(s, kind) + work.out_lists;
  const double moved = static_cast<double>(lists) * vectors;
  const double multiplied = static_cast<double>(work.entries) * vectors;
  if (kind == Lanes::kImages) return {multiplied, 0, moved};
  return {multiplied * (kind == Lanes::kPlain ? kUnalignedCost : 1), moved, 0};
}

Lanes choose_lanes(const Sweep& sweep, const Workload& work, std::initializer_list<Lanes> kinds) {
  return *std::min_element(kinds.begin(), kinds.end(), [&](Lanes a, Lanes b) {
    return cost(sweep, work, a) < cost(sweep, work, b);
  });
}

Tiling make_tiling(const Sweep& sweep, const Workload& work, Lanes kind) {
  Tiling t{};
  t.kind = kind;
  t.lanes = work.lanes;
  t.images = kind == Lanes::kImages ? std::min(work.lanes, work.batch) : 1;
  // As many row blocks as the cache or the threads ask for, and no thread left alone with a last
  // one.
  const int64_t budget = kind == Lanes::kImages ? kImageTileBytes : kTileBytes;
  int64_t rows = sweep.h.grid;
  while (rows > 1 && tile_bytes(sweep, work, kind, t.images, rows) > budget) {
    rows = ceil_div(rows, 2);
  }
  int64_t blocks = ceil_div(sweep.h.grid, rows);
  const int64_t image_blocks = ceil_div(work.batch, t.images);
  if (image_blocks * blocks < 4 * work.threads && sweep.h.grid >= 8 * work.threads) {
    while (image_blocks * blocks % work.threads != 0) ++blocks;
  }
  t.rows = ceil_div(sweep.h.grid, blocks);
  t.row_blocks = ceil_div(sweep.h.grid, t.rows);
  if (kind == Lanes::kTaps && t.row_blocks == 1) {
    const int64_t share = ceil_div(work.batch, std::min(work.batch, work.threads));
    while (2 * t.images <= share && tile_bytes(sweep, work, kind, 2 * t.images, t.rows) <= budget) {
      t.images *= 2;
    }
  }
  t.image_blocks = ceil_div(work.batch, t.images);

  const int64_t lanes = work.lanes;
  if (kind == Lanes::kTaps) {
    t.lines = 1;
    t.line = t.images * ceil_div(t.rows * sweep.w.grid, lanes);
  } else {
    t.lines = t.rows;
    t.line = kind == Lanes::kImages ? sweep.w.grid : ceil_div(sweep.w.grid, lanes);
  }
  t.source_lines = t.lines + (kind == Lanes::kTaps ? 0 : sweep.h.reach);
  t.source_line = kind == Lanes::kImages  ? (sweep.w.grid + sweep.w.reach) * lanes
                  : kind == Lanes::kPlain ? sweep.w.grid + sweep.w.reach
                                          : t.line * lanes;
  // Plain lines are read in whole vectors beyond their end.
  const int64_t slack = kind == Lanes::kPlain ? lanes : 0;
  t.plane = odd_pitch(t.source_lines * t.source_line + slack, lanes);
  t.grid_pitch = odd_pitch(t.lines * t.line * lanes, lanes);
  return t;
}

Tile tile_at(const Tiling& t, const Sweep& sweep, int64_t batch, int64_t number) {
  const int64_t image = number / t.row_blocks * t.images;
  const int64_t row = number % t.row_blocks * t.rows;
  return {image, std::min(t.images, batch - image), row, std::min(t.rows, sweep.h.grid - row)};
}

}  // namespace fbconv
