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

std::vector<uint16_t> masks_inside(const ConvGeometry& g, const InPlaceMap& map, int64_t down,
                                   int64_t right) {
  std::vector<uint16_t> inside(map.vectors);
  for (int64_t v = 0; v < map.vectors; ++v) {
    inside[v] = lanes_inside(g, v * map.lanes, map.lanes, down, right);
  }
  return inside;
}

InPlaceMap empty_map(const ConvGeometry& g, int64_t lanes) {
  InPlaceMap map;
  map.pixels = g.in_h * g.in_w;
  map.lanes = lanes;
  map.vectors = (map.pixels + lanes - 1) / lanes;
  return map;
}

// One plane per channel; mask_of(down, right) numbers a tap's mask.
template <typename MaskOf>
void make_shifts(const ConvGeometry& g, bool adjoint, int64_t row, TapTable* taps, InPlaceMap* map,
                 const MaskOf& mask_of) {
  const int64_t count = g.taps(), sign = adjoint ? -1 : 1;
  taps->planes = 1;
  *taps->plane_list.reserve(1) = {0, 0, 0, 0, 0, 0};
  std::fill_n(taps->plane.reserve(count), count, 0);
  std::fill_n(taps->out_phase.reserve(count), count, 0);
  int32_t* offset = taps->offset.reserve(count);
  int32_t* mask = taps->mask.reserve(count);
  for (int64_t tap = 0; tap < count; ++tap) {
    const int64_t down = sign * (tap / g.kernel_w * g.dilation_h - g.pad_h);
    const int64_t right = sign * (tap % g.kernel_w * g.dilation_w - g.pad_w);
    offset[tap] = static_cast<int32_t>(down * row + right);
    mask[tap] = mask_of(down, right);
    map->reach = std::max<int64_t>(map->reach, std::abs(offset[tap]));
  }
}

// The table of the taps' masks, and of the lanes inside the map.
void set_masks(const ConvGeometry& g, std::vector<std::vector<uint16_t>> columns, InPlaceMap* map) {
  map->masks = static_cast<int64_t>(columns.size());
  columns.push_back(masks_inside(g, *map, 0, 0));
  map->table.resize(map->vectors * columns.size());
  for (size_t i = 0; i < map->table.size(); ++i) {
    map->table[i] = columns[i % columns.size()][i / columns.size()];
  }
}

}  // namespace

bool reads_in_place(const ConvGeometry& g) {
  const bool same_size = g.out_h() == g.in_h && g.out_w() == g.in_w;
  return g.stride_h == 1 && g.stride_w == 1 && same_size && g.pad_h <= g.in_h && g.pad_w <= g.in_w;
}

bool rows_are_vectors(const ConvGeometry& g, int64_t lanes) {
  return g.in_w % lanes == 0 && g.pad_w <= lanes && g.pad_h > 0;
}

void make_in_place_taps(const ConvGeometry& g, bool adjoint, int64_t lanes, TapTable* taps,
                        InPlaceMap* map) {
  *map = empty_map(g, lanes);
  map->source_line = lanes;
  std::vector<std::vector<uint16_t>> columns;
  const uint16_t full = static_cast<uint16_t>((1u << lanes) - 1);
  make_shifts(g, adjoint, g.in_w, taps, map, [&](int64_t down, int64_t right) {
    std::vector<uint16_t> inside = masks_inside(g, *map, down, right);
    const bool open =
        std::all_of(inside.begin(), inside.end(), [&](uint16_t mask) { return mask == full; });
    if (open) return -1;
    columns.push_back(std::move(inside));
    return static_cast<int32_t>(columns.size()) - 1;
  });
  set_masks(g, columns, map);
}

void make_padded_taps(const ConvGeometry& g, bool adjoint, int64_t lanes, TapTable* taps,
                      InPlaceMap* map) {
  *map = empty_map(g, lanes);
  map->line_vectors = g.in_w / lanes;
  map->source_line = g.in_w + lanes;
  map->reach_lines = g.pad_h;
  make_shifts(g, adjoint, map->source_line, taps, map, [](int64_t, int64_t) { return -1; });
  set_masks(g, {}, map);
}

void fill_open_masks(const InPlaceMap& map, RowLists* lists) {
  uint8_t* mask = lists->mask.data();
  std::replace(mask, mask + lists->entries, kNoMask, static_cast<uint8_t>(map.masks));
}

}  // namespace fbconv
