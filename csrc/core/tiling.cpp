#include "tiling.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace fbconv {
namespace {

constexpr int64_t kTileBytes = 512 * 1024;  // about half of a current core's L2
constexpr int64_t kMinPositions = 128;      // below this a row list's overhead dominates

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

int64_t odd_pitch(int64_t count, int64_t lanes) { return (ceil_div(count, lanes) | 1) * lanes; }

void require_reachable(int64_t channels, int64_t pitch) {
  if (channels > std::numeric_limits<int32_t>::max() / pitch) {
    throw std::length_error(
        "fbconv: a row of the map, padding included, with all its channels must stay below 2^31 "
        "elements, got " +
        std::to_string(channels) + " channels of " + std::to_string(pitch));
  }
}

Tiling make_tiling(const Sweep& sweep, int64_t batch, int64_t channels_held, int64_t element_size,
                   int64_t lanes, int64_t threads) {
  Tiling t{};
  t.width = sweep.w.grid + sweep.w.reach;
  const int64_t budget =
      std::max(kMinPositions, kTileBytes / std::max<int64_t>(1, channels_held * element_size));
  const int64_t affordable_rows = std::max<int64_t>(1, budget / t.width);
  // As many row blocks as the cache or the threads ask for, and no thread left alone with a last
  // one.
  int64_t blocks = ceil_div(sweep.h.grid, std::min(affordable_rows, sweep.h.grid));
  if (batch * blocks < 4 * threads) {
    while (batch * blocks % threads != 0 && blocks < sweep.h.grid) ++blocks;
  }
  t.rows = ceil_div(sweep.h.grid, blocks);
  t.row_blocks = ceil_div(sweep.h.grid, t.rows);
  t.source_rows = t.rows + sweep.h.reach;
  t.images = 1;
  if (t.row_blocks == 1) {
    const int64_t affordable = std::max<int64_t>(1, budget / (t.source_rows * t.width));
    t.images = std::min(affordable, ceil_div(batch, std::min(batch, threads)));
  }
  t.image_blocks = ceil_div(batch, t.images);
  t.plane = t.images * t.source_rows * t.width;
  t.pitch = odd_pitch(sweep.source_phases() * t.plane + sweep.w.reach + lanes, lanes);
  const int64_t used = ((t.images - 1) * t.source_rows + t.rows) * t.width;
  t.positions = ceil_div(used, lanes) * lanes;
  return t;
}

Tile tile_at(const Tiling& t, const Sweep& sweep, int64_t batch, int64_t number) {
  const int64_t image = number / t.row_blocks * t.images;
  const int64_t row = number % t.row_blocks * t.rows;
  return {image, std::min(t.images, batch - image), row, std::min(t.rows, sweep.h.grid - row)};
}

}  // namespace fbconv
