#include "row_lists.h"

#include <algorithm>

namespace fbconv {

void RowLists::resize(int64_t row_count, int64_t entry_count, bool in_order) {
  rows = row_count;
  entries = entry_count;
  values_in_order = in_order;
  ptr.reserve(rows + 1);
  offset.reserve(entries);
  if (!in_order) value.reserve(entries);
}

void make_forward_taps(const ConvGeometry& g, const Sweep& sweep, const Tiling& t, TapTable* taps) {
  int32_t* offset = taps->offset.reserve(g.taps());
  for (int64_t tap = 0; tap < g.taps(); ++tap) {
    const int64_t h = tap / g.kernel_w * g.dilation_h, w = tap % g.kernel_w * g.dilation_w;
    const int64_t phase = h % g.stride_h * sweep.w.source.phases + w % g.stride_w;
    offset[tap] = static_cast<int32_t>(phase * t.plane + h / g.stride_h * t.width + w / g.stride_w);
  }
}

void make_adjoint_taps(const ConvGeometry& g, const Sweep& sweep, const Tiling& t, TapTable* taps) {
  int32_t* offset = taps->offset.reserve(g.taps());
  int32_t* phase = taps->phase.reserve(g.taps());
  for (int64_t tap = 0; tap < g.taps(); ++tap) {
    const int64_t h = tap / g.kernel_w * g.dilation_h, w = tap % g.kernel_w * g.dilation_w;
    phase[tap] = static_cast<int32_t>(h % g.stride_h * g.stride_w + w % g.stride_w);
    offset[tap] = static_cast<int32_t>((sweep.h.lead - h / g.stride_h) * t.width + sweep.w.lead -
                                       w / g.stride_w);
  }
}

void make_forward_lists(const ConvGeometry& g, const PatternView& p, const Sweep& sweep,
                        const Tiling& t, RowLists* lists) {
  thread_local TapTable table;
  thread_local Buffer<int32_t> index_offset_buffer;
  make_forward_taps(g, sweep, t, &table);
  // Offsets by index: a division for every entry would cost more than the gather it prepares.
  int32_t* index_offset = index_offset_buffer.reserve(p.channels * p.taps);
  for (int64_t channel = 0; channel < p.channels; ++channel) {
    const int32_t start = static_cast<int32_t>(channel * t.pitch);
    for (int64_t tap = 0; tap < p.taps; ++tap) {
      index_offset[channel * p.taps + tap] = start + table.offset.data()[tap];
    }
  }
  lists->resize(p.rows, p.nnz, true);
  std::copy(p.row_ptr, p.row_ptr + p.rows + 1, lists->ptr.data());
  int32_t* offset = lists->offset.data();
  for (int64_t row = 0; row < p.rows; ++row) {
    const int32_t group_start =
        static_cast<int32_t>(row / g.group_outputs() * g.group_inputs() * t.pitch);
    for (int32_t k = p.row_ptr[row]; k < p.row_ptr[row + 1]; ++k) {
      offset[k] = group_start + index_offset[p.index[k]];
    }
  }
}

void make_adjoint_lists(const ConvGeometry& g, const PatternView& p, const Sweep& sweep,
                        const Tiling& t, RowLists* lists) {
  thread_local TapTable table;
  thread_local Buffer<int32_t> entry_buffer, cursor_buffer;
  make_adjoint_taps(g, sweep, t, &table);
  // Offset and phase by index, as in the forward lists.
  const int64_t words = p.rows * p.taps, phases = sweep.out_phases();
  int32_t* index_offset = entry_buffer.reserve(2 * words);
  int32_t* index_phase = index_offset + words;
  for (int64_t row = 0; row < p.rows; ++row) {
    const int32_t start = static_cast<int32_t>(row * t.pitch);
    for (int64_t tap = 0; tap < p.taps; ++tap) {
      index_offset[row * p.taps + tap] = start + table.offset.data()[tap];
      index_phase[row * p.taps + tap] = table.phase.data()[tap];
    }
  }
  lists->resize(g.in_channels * phases, p.nnz, false);
  int32_t* ptr = lists->ptr.data();
  int32_t* offset = lists->offset.data();
  int32_t* value = lists->value.data();
  int32_t* cursor = cursor_buffer.reserve(phases);
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
    if (phases == 1) {
      for (const int32_t* i = first; i < last; ++i, ++filled) {
        offset[filled] = index_offset[*i];
        value[filled] = p.t_value[i - p.t_index];
      }
      ptr[channel + 1] = filled;
      continue;
    }
    std::fill(cursor, cursor + phases, 0);
    for (const int32_t* i = first; i < last; ++i) ++cursor[index_phase[*i]];
    for (int64_t phase = 0; phase < phases; ++phase) {
      const int32_t count = cursor[phase];
      cursor[phase] = filled;
      filled += count;
      ptr[channel * phases + phase + 1] = filled;
    }
    for (const int32_t* i = first; i < last; ++i) {
      const int32_t slot = cursor[index_phase[*i]]++;
      offset[slot] = index_offset[*i];
      value[slot] = p.t_value[i - p.t_index];
    }
  }
}

}  // namespace fbconv
