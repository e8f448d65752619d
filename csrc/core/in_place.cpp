#include "in_place.h"

#include <algorithm>
#include <cstdlib>

namespace fbconv {
namespace {

// Lanes of a vector whose pixels a tap moves to other pixels of the map.
uint16_t lanes_inside(const ConvGeometry& g, int64_t first, int64_t lanes, int64_t down,
                      int64_t right) {
  uint16_t mask = 0;
  for (int64_t lane = 0; lane < lanes && first + lane < g.in_h * g.in_w; ++lane) {
    const int64_t row = (first + lane) / g.in_w + down, column = (first + lane) % g.in_w + right;
    const bool inside = row >= 0 && row < g.in_h && column >= 0 && column < g.in_w;
    if (inside) mask |= static_cast<uint16_t>(1u << lane);
  }
  return mask;
}

}  // namespace

bool reads_in_place(const ConvGeometry& g) {
  return g.stride_h == 1 && g.stride_w == 1 && g.out_h() == g.in_h && g.out_w() == g.in_w;
}

void make_in_place_taps(const ConvGeometry& g, bool adjoint, int64_t lanes, TapTable* taps,
                        InPlaceMap* map) {
  const int64_t count = g.taps();
  *map = {g.in_h * g.in_w, lanes, (g.in_h * g.in_w + lanes - 1) / lanes, 0, 0, {}};
  taps->planes = 1;
  const Plane whole{0, 0, 0, 0, 0, 0};
  *taps->plane_list.reserve(1) = whole;
  std::fill_n(taps->plane.reserve(count), count, 0);
  std::fill_n(taps->out_phase.reserve(count), count, 0);
  int32_t* offset = taps->offset.reserve(count);
  int32_t* mask = taps->mask.reserve(count);
  const uint16_t full = static_cast<uint16_t>((1u << lanes) - 1);
  std::vector<std::vector<uint16_t>> columns;
  for (int64_t tap = 0; tap < count; ++tap) {
    const int64_t sign = adjoint ? -1 : 1;
    const int64_t down = sign * (tap / g.kernel_w * g.dilation_h - g.pad_h);
    const int64_t right = sign * (tap % g.kernel_w * g.dilation_w - g.pad_w);
    offset[tap] = static_cast<int32_t>(down * g.in_w + right);
    map->reach = std::max<int64_t>(map->reach, std::abs(offset[tap]));
    std::vector<uint16_t> inside(map->vectors);
    for (int64_t v = 0; v < map->vectors; ++v) {
      inside[v] = lanes_inside(g, v * lanes, lanes, down, right);
    }
    const bool open = std::all_of(inside.begin(), inside.end(), [&](uint16_t m) { return m == full; });
    mask[tap] = open ? -1 : static_cast<int32_t>(columns.size());
    if (!open) columns.push_back(inside);
  }
  map->masks = static_cast<int64_t>(columns.size());
  std::vector<uint16_t> own(map->vectors);
  for (int64_t v = 0; v < map->vectors; ++v) own[v] = lanes_inside(g, v * lanes, lanes, 0, 0);
  columns.push_back(own);
  map->table.resize(map->vectors * columns.size());
  for (size_t i = 0; i < map->table.size(); ++i) {
    map->table[i] = columns[i % columns.size()][i / columns.size()];
  }
}

void fill_open_masks(const InPlaceMap& map, RowLists* lists) {
  uint8_t* mask = lists->mask.data();
  std::replace(mask, mask + lists->entries, kNoMask, static_cast<uint8_t>(map.masks));
}

}  // namespace fbconv
