#include "row_lists.h"

#include <algorithm>
#include <tuple>
#include <vector>

namespace fbconv {
namespace {

constexpr int64_t kRowEntries = 16;  // fewer in a block don't pay for another pass over y

constexpr int64_t kFewVectors = 8;

// A tap before lanes decide what of its shift is copied.
struct TapPlace {
  int64_t phase_h, phase_w, shift_h, shift_w, out_phase;
};

template <typename PlaceOf>
void make_taps(const ConvGeometry& g, const Tiling& t, const PlaceOf& place_of, TapTable* taps) {
  using Key = std::tuple<int32_t, int32_t, int32_t, int32_t>;
  const int64_t count = g.taps();
  const int64_t step = t.kind == Lanes::kImages ? t.lanes : 1;
  std::vector<std::pair<Key, int32_t>> keys(count);
  int32_t* offset = taps->offset.reserve(count);
  int32_t* out_phase = taps->out_phase.reserve(count);
  std::fill_n(taps->mask.reserve(count), count, -1);
  for (int64_t tap = 0; tap < count; ++tap) {
    const TapPlace place =
        place_of(tap / g.kernel_w * g.dilation_h, tap % g.kernel_w * g.dilation_w);
    const int64_t copied_h = t.copies_rows() ? place.shift_h : 0;
    const int64_t copied_w = t.copies_columns() ? place.shift_w : 0;
    keys[tap] = {Key(place.phase_h, copied_h, place.phase_w, copied_w), static_cast<int32_t>(tap)};
    offset[tap] = static_cast<int32_t>((place.shift_h - copied_h) * t.source_line +
                                       (place.shift_w - copied_w) * step);
    out_phase[tap] = static_cast<int32_t>(place.out_phase);
  }
  std::sort(keys.begin(), keys.end());
  int32_t* plane = taps->plane.reserve(count);
  Plane* list = taps->plane_list.reserve(count);
  taps->planes = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i == 0 || keys[i].first != keys[i - 1].first) {
      const auto& [phase_h, shift_h, phase_w, shift_w] = keys[i].first;
      const int32_t number = static_cast<int32_t>(taps->planes++);
      list[number] = {0, phase_h, phase_w, shift_h, shift_w, number};
    }
    plane[keys[i].second] = static_cast<int32_t>(taps->planes - 1);
  }
}

void set_kinds(const TapTable& taps, Planes* planes) {
  planes->numbers = taps.planes;
  const Plane* kinds = taps.plane_list.data();
  std::copy(kinds, kinds + taps.planes, planes->kinds.reserve(taps.planes));
}

}  // namespace

void make_forward_taps(const ConvGeometry& g, const Tiling& t, TapTable* taps) {
  const auto place_of = [&](int64_t h, int64_t w) {
    return TapPlace{h % g.stride_h, w % g.stride_w, h / g.stride_h, w / g.stride_w, 0};
  };
  make_taps(g, t, place_of, taps);
}

void make_adjoint_taps(const ConvGeometry& g, const Sweep& sweep, const Tiling& t, TapTable* taps) {
  const auto place_of = [&](int64_t h, int64_t w) {
    return TapPlace{0, 0, sweep.h.lead - h / g.stride_h, sweep.w.lead - w / g.stride_w,
                    h % g.stride_h * g.stride_w + w % g.stride_w};
  };
  make_taps(g, t, place_of, taps);
}

void EntryLists::resize(int64_t row_count, int64_t entry_count, bool values_in_order) {
  rows = row_count;
  entries = entry_count;
  in_order = values_in_order;
  ptr.reserve(rows + 1);
  list.reserve(entries);
}

int64_t planes_per_block(int64_t planes, int64_t plane_bytes, int64_t rows, int64_t entries,
                         int64_t vectors, int64_t block_bytes) {
  if (vectors < kFewVectors) return std::max<int64_t>(1, planes);
  const int64_t fit = std::max<int64_t>(1, block_bytes / plane_bytes);
  const int64_t worth = kRowEntries * rows * planes / std::max<int64_t>(1, entries);
  const int64_t least = std::max<int64_t>(1, std::max(fit, worth));
  // Blocks of equal size, so that the last is not left with a few.
  const int64_t blocks = std::max<int64_t>(1, planes / least);
  return std::max<int64_t>(1, (planes + blocks - 1) / blocks);
}

int64_t step_bytes(const Sweep& sweep, const Tiling& t, int64_t element_size) {
  constexpr int64_t kStepVectors = 8;
  const int64_t columns = std::min(t.line, kStepVectors);
  const int64_t rows = std::max<int64_t>(1, std::min(t.lines, kStepVectors / columns));
  const int64_t high = t.copies_rows() ? rows : rows + sweep.h.reach;
  const int64_t wide = t.kind == Lanes::kImages ? columns + sweep.w.reach : columns;
  return high * wide * t.lanes * element_size;
}

// Calls f(k, block) for the entries of a row, whose planes rise.
template <typename F>
void cut_row(const Entry* entries, int32_t begin, int32_t end, int64_t blocks, int64_t block_planes,
             int64_t group, const F& f) {
  int32_t k = begin;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t last_plane = (block + 1) * block_planes;
    int32_t last = k;
    while (last < end && entries[last].plane < last_plane) ++last;
    const int32_t size = static_cast<int32_t>(group);
    if (block + 1 == blocks) {
      last = end;
    } else if (size > 1) {
      last = std::min<int32_t>(end, begin + (last - begin + size / 2) / size * size);
    }
    for (; k < last; ++k) f(k, block);
  }
}

void make_blocks(const EntryLists& from, int64_t planes, int64_t block_planes, int64_t pitch,
                 bool restart, RowLists* to, int64_t group) {
  to->rows = from.rows;
  to->entries = from.entries;
  to->block_planes = block_planes;
  to->blocks = std::max<int64_t>(1, (planes + block_planes - 1) / block_planes);
  to->values_in_order = from.in_order && to->blocks == 1;
  const int64_t lists = to->blocks * to->rows;
  int32_t* ptr = to->ptr.reserve(lists + 1);
  int32_t* offset = to->offset.reserve(to->entries);
  int32_t* value = to->values_in_order ? nullptr : to->value.reserve(to->entries);
  uint8_t* mask = to->mask.reserve(to->entries);
  int32_t* first_value = to->first_value.reserve(lists);
  std::fill(first_value, first_value + lists, 0);
  to->lists_in_order = true;
  std::fill(ptr, ptr + lists + 1, 0);
  const Entry* entries = from.list.data();
  const auto each = [&](const auto& body) {
    for (int64_t row = 0; row < from.rows; ++row) {
      cut_row(entries, from.ptr.data()[row], from.ptr.data()[row + 1], to->blocks, block_planes,
              group, [&](int32_t k, int64_t block) { body(k, block, block * from.rows + row); });
    }
  };
  each([&](int32_t, int64_t, int64_t list) { ++ptr[list + 1]; });
  for (int64_t i = 0; i < lists; ++i) ptr[i + 1] += ptr[i];
  std::vector<int32_t> cursor(ptr, ptr + lists);
  each([&](int32_t k, int64_t block, int64_t list) {
    const int64_t first = restart ? block * block_planes : 0;
    const int32_t slot = cursor[list]++;
    offset[slot] = static_cast<int32_t>((entries[k].plane - first) * pitch) + entries[k].offset;
    if (value != nullptr) value[slot] = entries[k].value;
    mask[slot] = entries[k].mask < 0 ? kNoMask : static_cast<uint8_t>(entries[k].mask);
    if (slot == ptr[list]) first_value[list] = entries[k].value;
    to->lists_in_order &= entries[k].value == first_value[list] + slot - ptr[list];
  });
}

void find_runs(RowLists* lists) {
  const int32_t *ptr = lists->ptr.data(), *offset = lists->offset.data();
  int32_t* run_end = lists->run_end.reserve(lists->rows);
  for (int64_t row = lists->rows - 1; row >= 0; --row) {
    const bool as_next =
        row + 1 < lists->rows && std::equal(offset + ptr[row], offset + ptr[row + 1],
                                            offset + ptr[row + 1], offset + ptr[row + 2]);
    run_end[row] = as_next ? run_end[row + 1] : static_cast<int32_t>(row + 1);
  }
  lists->has_runs = true;
}

void make_all_planes(const TapTable& taps, int64_t channels, Planes* planes) {
  set_kinds(taps, planes);
  planes->count = channels * taps.planes;
  Plane* list = planes->list.reserve(planes->count);
  for (int64_t i = 0; i < planes->count; ++i) {
    list[i] = taps.plane_list.data()[i % taps.planes];
    list[i].channel = static_cast<int32_t>(i / taps.planes);
  }
}

void drop_dead_planes(const TapTable& taps, int64_t channels, EntryLists* entries, Planes* planes) {
  std::vector<int32_t> number(channels * taps.planes, -1);
  Entry* list = entries->list.data();
  for (int64_t k = 0; k < entries->entries; ++k) number[list[k].plane] = 0;
  set_kinds(taps, planes);
  planes->count = 0;
  planes->list.reserve(static_cast<int64_t>(number.size()));
  for (size_t i = 0; i < number.size(); ++i) {
    if (number[i] < 0) continue;
    Plane plane = taps.plane_list.data()[i % taps.planes];
    plane.channel = static_cast<int32_t>(i / taps.planes);
    planes->list.data()[planes->count] = plane;
    number[i] = static_cast<int32_t>(planes->count++);
  }
  for (int64_t k = 0; k < entries->entries; ++k) list[k].plane = number[list[k].plane];
}

void make_forward_lists(const ConvGeometry& g, const PatternView& p, const TapTable& taps,
                        EntryLists* entries) {
  // By index, because a division for every entry would cost more than the gather it prepares.
  std::vector<Entry> of_index(p.channels * p.taps);
  for (int64_t i = 0; i < p.channels * p.taps; ++i) {
    const int64_t channel = i / p.taps, tap = i % p.taps;
    of_index[i] = {static_cast<int32_t>(channel * taps.planes) + taps.plane.data()[tap],
                   taps.offset.data()[tap], 0, taps.mask.data()[tap]};
  }
  entries->resize(p.rows, p.nnz, true);
  std::copy(p.row_ptr, p.row_ptr + p.rows + 1, entries->ptr.data());
  for (int64_t row = 0; row < p.rows; ++row) {
    const int64_t group_start = row / g.group_outputs() * g.group_inputs() * taps.planes;
    for (int32_t k = p.row_ptr[row]; k < p.row_ptr[row + 1]; ++k) {
      Entry& entry = entries->list.data()[k] = of_index[p.index[k]];
      entry.plane += static_cast<int32_t>(group_start);
      entry.value = k;
    }
  }
}

void make_adjoint_lists(const ConvGeometry& g, const PatternView& p, int64_t phases,
                        const TapTable& taps, EntryLists* entries) {
  entries->resize(g.in_channels * phases, p.nnz, false);
  int32_t* ptr = entries->ptr.data();
  std::vector<int32_t> cursor(phases + 1);
  int32_t filled = 0;
  ptr[0] = 0;
  for (int64_t channel = 0; channel < g.in_channels; ++channel) {
    const int64_t group = channel / g.group_inputs(), local = channel % g.group_inputs();
    const int32_t *begin = p.t_index + p.channel_ptr[local],
                  *end = p.t_index + p.channel_ptr[local + 1];
    const int32_t group_words = static_cast<int32_t>(g.group_outputs() * p.taps);
    const int32_t* first = std::lower_bound(begin, end, static_cast<int32_t>(group) * group_words);
    const int32_t* last =
        std::lower_bound(first, end, static_cast<int32_t>(group + 1) * group_words);
    const auto tap_of = [&](const int32_t* i) { return *i % static_cast<int32_t>(p.taps); };
    std::fill(cursor.begin(), cursor.end(), 0);
    for (const int32_t* i = first; i < last; ++i) ++cursor[taps.out_phase.data()[tap_of(i)]];
    for (int64_t phase = 0; phase < phases; ++phase) {
      const int32_t count = cursor[phase];
      cursor[phase] = filled;
      filled += count;
      ptr[channel * phases + phase + 1] = filled;
    }
    for (const int32_t* i = first; i < last; ++i) {
      const int32_t tap = tap_of(i), row = *i / static_cast<int32_t>(p.taps);
      entries->list.data()[cursor[taps.out_phase.data()[tap]]++] = {
          static_cast<int32_t>(row * taps.planes) + taps.plane.data()[tap], taps.offset.data()[tap],
          p.t_value[i - p.t_index], taps.mask.data()[tap]};
    }
  }
}

}  // namespace fbconv
