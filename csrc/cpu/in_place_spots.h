// Walks a tile's spots a few at a time, in steps that lists are walked with.
#pragma once

#include <algorithm>

#include "in_place_tiles.h"

namespace fbconv {

// Sums of so many spots are held in registers together, or gradients of so many.
constexpr int64_t kWalkedSpots = 4, kCorrelatedSpots = 8;

// Calls f(work, y) for up to `most` spots at a time: the same line of neighbouring images where
// these suffice, so that they share their masks, or else neighbouring lines.  `work` lacks its lists.
template <typename T, typename Y, typename F>
void over_spots(const InPlaceMap& map, const InPlaceTile& tile, const SpotView<const T>& x,
                const SpotView<Y>& y, int64_t most, const F& f) {
  const bool by_image = tile.images >= most;
  const int64_t outer = by_image ? tile.lines : tile.images;
  const int64_t inner = by_image ? tile.images : tile.lines;
  MaskedWork<T> work{};
  work.x_step = by_image ? x.image_step : x.line_step;
  work.y_step = by_image ? y.image_step : y.line_step;
  work.mask_step = by_image ? 0 : map.line_vectors * (map.masks + 1);
  work.own_mask = static_cast<uint8_t>(map.masks);
  work.open = map.masks == 0 && !map.partial();
  for (int64_t i = 0; i < outer; ++i) {
    for (int64_t v = 0; v < map.line_vectors; ++v) {
      for (int64_t j = 0; j < inner; j += most) {
        const int64_t image = by_image ? j : i, line = by_image ? i : j;
        work.spots = std::min(most, inner - j);
        work.x = x.data + x.offset(image, line, v * map.lanes);
        work.masks = map.row((tile.line + line) * map.line_vectors + v);
        f(work, y.data + y.offset(image, line, v * map.lanes));
      }
    }
  }
}

}  // namespace fbconv
