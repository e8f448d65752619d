#include "basis_lists.h"

#include <algorithm>
#include <vector>

namespace fbconv {
namespace {

// Numbers the keys that occur in rising order, so that columns of a channel are neighbours.
template <typename KeyOf, typename Describe>
void number_columns(const PatternView& p, int64_t keys, const KeyOf& key_of,
                    const Describe& describe, BasisColumns* columns) {
  thread_local Buffer<int32_t> number_buffer;
  int32_t* number = number_buffer.reserve(keys);
  std::fill(number, number + keys, -1);
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int32_t k = p.row_ptr[row]; k < p.row_ptr[row + 1]; ++k)
      number[key_of(row, p.index[k])] = 0;
  }
  int32_t count = 0;
  for (int64_t key = 0; key < keys; ++key) {
    if (number[key] == 0) number[key] = count++;
  }
  columns->count = count;
  columns->channel.reserve(count);
  columns->element_row.reserve(count);
  for (int64_t key = 0; key < keys; ++key) {
    if (number[key] >= 0) describe(key, number[key]);
  }
  int32_t* of_entry = columns->of_entry.reserve(p.nnz);
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int32_t k = p.row_ptr[row]; k < p.row_ptr[row + 1]; ++k) {
      of_entry[k] = number[key_of(row, p.index[k])];
    }
  }
}

// Rows are given by `row_of(entry)`, planes by `plane_of(row of the pattern, entry)`; entries keep
// their order within a row.
template <typename RowOf, typename PlaneOf>
void group_entries(const PatternView& p, int64_t rows, const RowOf& row_of, const PlaneOf& plane_of,
                   EntryLists* lists) {
  lists->resize(rows, p.nnz, false);
  int32_t* ptr = lists->ptr.data();
  std::fill(ptr, ptr + rows + 1, 0);
  for (int64_t k = 0; k < p.nnz; ++k) ++ptr[row_of(k) + 1];
  for (int64_t row = 0; row < rows; ++row) ptr[row + 1] += ptr[row];
  std::vector<int32_t> cursor(ptr, ptr + rows);
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int32_t k = p.row_ptr[row]; k < p.row_ptr[row + 1]; ++k) {
      lists->list.data()[cursor[row_of(k)]++] = {static_cast<int32_t>(plane_of(row, k)), 0, k};
    }
  }
}

int32_t tap_value(const BasisColumns& columns, int64_t column, int64_t taps, int64_t tap) {
  return static_cast<int32_t>(columns.element_row.data()[column] * taps + tap);
}

}  // namespace

void make_input_columns(const ConvGeometry& g, const BasisLayout& basis, const PatternView& p,
                        BasisColumns* columns) {
  const int64_t per_basis = g.in_channels * basis.elements;
  const auto key_of = [&](int64_t row, int32_t index) {
    const int64_t key = row / g.group_outputs() * g.group_inputs() * basis.elements + index;
    return basis.per_output ? basis.of(g, 0, row) * per_basis + key : key;
  };
  const auto describe = [&](int64_t key, int32_t column) {
    const int64_t channel = key % per_basis / basis.elements, element = key % basis.elements;
    const int64_t which = basis.per_output ? key / per_basis : basis.of(g, channel, 0);
    columns->channel.data()[column] = static_cast<int32_t>(channel);
    columns->element_row.data()[column] = static_cast<int32_t>(which * basis.elements + element);
  };
  number_columns(p, (basis.per_output ? basis.bases : 1) * per_basis, key_of, describe, columns);
}

void make_output_columns(const ConvGeometry& g, const BasisLayout& basis, const PatternView& p,
                         BasisColumns* columns) {
  const int64_t variants = basis.per_output ? 1 : basis.bases;
  const int64_t elements = basis.elements;
  const auto key_of = [&](int64_t row, int32_t index) {
    const int64_t channel = row / g.group_outputs() * g.group_inputs() + index / elements;
    const int64_t variant = basis.per_output ? 0 : basis.of(g, channel, row);
    return (row * variants + variant) * elements + index % elements;
  };
  const auto describe = [&](int64_t key, int32_t column) {
    const int64_t row = key / (variants * elements);
    const int64_t which = basis.per_output ? basis.of(g, 0, row) : key / elements % variants;
    columns->channel.data()[column] = static_cast<int32_t>(row);
    columns->element_row.data()[column] = static_cast<int32_t>(which * elements + key % elements);
  };
  number_columns(p, g.out_channels * variants * elements, key_of, describe, columns);
}

void make_column_taps(const ConvGeometry& g, const BasisColumns& columns, const TapTable& taps,
                      EntryLists* entries) {
  entries->resize(columns.count, columns.count * g.taps(), false);
  Entry* entry = entries->list.data();
  entries->ptr.data()[0] = 0;
  for (int64_t column = 0; column < columns.count; ++column) {
    const int64_t first = columns.channel.data()[column] * taps.planes;
    for (int64_t tap = 0; tap < g.taps(); ++tap) {
      *entry++ = {static_cast<int32_t>(first) + taps.plane.data()[tap], taps.offset.data()[tap],
                  tap_value(columns, column, g.taps(), tap), taps.mask.data()[tap]};
    }
    entries->ptr.data()[column + 1] = static_cast<int32_t>(entry - entries->list.data());
  }
}

void make_column_taps_gathered(const ConvGeometry& g, const BasisColumns& columns,
                               const TapTable& taps, int64_t plane, EntryLists* entries) {
  entries->resize(g.out_channels, columns.count * g.taps(), false);
  Entry* entry = entries->list.data();
  int64_t column = 0;
  entries->ptr.data()[0] = 0;
  for (int64_t row = 0; row < g.out_channels; ++row) {
    for (; column < columns.count && columns.channel.data()[column] == row; ++column) {
      for (int64_t tap = 0; tap < g.taps(); ++tap) {
        const int64_t offset = taps.plane.data()[tap] * plane + taps.offset.data()[tap];
        *entry++ = {static_cast<int32_t>(column), static_cast<int32_t>(offset),
                    tap_value(columns, column, g.taps(), tap), taps.mask.data()[tap]};
      }
    }
    entries->ptr.data()[row + 1] = static_cast<int32_t>(entry - entries->list.data());
  }
}

void make_column_taps_adjoint(const ConvGeometry& g, const BasisColumns& columns, int64_t phases,
                              const TapTable& taps, EntryLists* entries) {
  entries->resize(columns.count * phases, columns.count * g.taps(), false);
  Entry* entry = entries->list.data();
  int32_t* ptr = entries->ptr.data();
  *ptr = 0;
  for (int64_t column = 0; column < columns.count; ++column) {
    const int64_t first = columns.channel.data()[column] * taps.planes;
    for (int64_t phase = 0; phase < phases; ++phase) {
      for (int64_t tap = 0; tap < g.taps(); ++tap) {
        if (taps.out_phase.data()[tap] != phase) continue;
        *entry++ = {static_cast<int32_t>(first) + taps.plane.data()[tap], taps.offset.data()[tap],
                    tap_value(columns, column, g.taps(), tap), taps.mask.data()[tap]};
      }
      *++ptr = static_cast<int32_t>(entry - entries->list.data());
    }
  }
}

void make_mix(const PatternView& p, const BasisColumns& columns, EntryLists* entries) {
  entries->resize(p.rows, p.nnz, true);
  std::copy(p.row_ptr, p.row_ptr + p.rows + 1, entries->ptr.data());
  for (int64_t k = 0; k < p.nnz; ++k) {
    entries->list.data()[k] = {columns.of_entry.data()[k], 0, static_cast<int32_t>(k)};
  }
}

void make_mix_adjoint(const PatternView& p, const BasisColumns& columns, EntryLists* entries) {
  group_entries(
      p, columns.count, [&](int64_t k) { return columns.of_entry.data()[k]; },
      [](int64_t row, int64_t) { return row; }, entries);
}

void make_mix_adjoint_outputs(const ConvGeometry& g, const PatternView& p,
                              const BasisColumns& columns, int64_t phases, EntryLists* entries) {
  const int64_t rows = g.in_channels * phases;
  entries->resize(rows, p.nnz * phases, false);
  int32_t* ptr = entries->ptr.data();
  std::fill(ptr, ptr + rows + 1, 0);
  const auto channel_of = [&](int64_t row, int32_t k) {
    return row / g.group_outputs() * g.group_inputs() + p.index[k] / p.taps;
  };
  const auto each = [&](const auto& body) {
    for (int64_t row = 0; row < p.rows; ++row) {
      for (int32_t k = p.row_ptr[row]; k < p.row_ptr[row + 1]; ++k) {
        for (int64_t phase = 0; phase < phases; ++phase) {
          body(k, channel_of(row, k) * phases + phase, phase);
        }
      }
    }
  };
  each([&](int32_t, int64_t row, int64_t) { ++ptr[row + 1]; });
  for (int64_t row = 0; row < rows; ++row) ptr[row + 1] += ptr[row];
  std::vector<int32_t> cursor(ptr, ptr + rows);
  each([&](int32_t k, int64_t row, int64_t phase) {
    const int64_t plane = columns.of_entry.data()[k] * phases + phase;
    entries->list.data()[cursor[row]++] = {static_cast<int32_t>(plane), 0, k};
  });
}

void make_mix_gathered(const ConvGeometry& g, const PatternView& p, const BasisColumns& columns,
                       EntryLists* entries) {
  group_entries(
      p, columns.count, [&](int64_t k) { return columns.of_entry.data()[k]; },
      [&](int64_t row, int64_t k) {
        return row / g.group_outputs() * g.group_inputs() + p.index[k] / p.taps;
      },
      entries);
}

}  // namespace fbconv
