// The two factors of a filter-basis convolution as row lists: the taps (basis elements applied to a
// map) and the mix (sparse coefficients).  Between them lies one map per live column, that is per
// (channel, basis element) that any coefficient uses; dead columns are never computed.
#pragma once

#include "row_lists.h"

namespace fbconv {

struct BasisColumns {
  int64_t count = 0;
  Buffer<int32_t> of_entry;  // coefficient k -> its column
  Buffer<int32_t> channel;   // column -> input channel (basis first) or output channel (mix first)
  Buffer<int32_t> element_row;  // column -> row of the basis seen as (bases * elements, taps)
};

// Columns of Z[b, n] = conv(X[b], g[n]).
void make_input_columns(const ConvGeometry& g, const BasisLayout& basis, const PatternView& p,
                        BasisColumns* columns);
// Columns of U[a, n] = sum_b coefficient[a, b, n] X[b].
void make_output_columns(const ConvGeometry& g, const BasisLayout& basis, const PatternView& p,
                         BasisColumns* columns);

// Rows are columns, entries taps of their input channel's planes.
void make_column_taps(const ConvGeometry& g, const BasisColumns& columns, const TapTable& taps,
                      EntryLists* entries);
// Rows are output channels, entries taps of their columns, whose planes lie `plane` elements apart:
// the second step of mix first.
void make_column_taps_gathered(const ConvGeometry& g, const BasisColumns& columns,
                               const TapTable& taps, int64_t plane, EntryLists* entries);
// Rows are (column of an output channel, phase), entries taps of the output gradient's planes.
void make_column_taps_adjoint(const ConvGeometry& g, const BasisColumns& columns, int64_t phases,
                              const TapTable& taps, EntryLists* entries);

// Rows are output channels, entries columns.
void make_mix(const PatternView& p, const BasisColumns& columns, EntryLists* entries);
// Rows are columns, entries output channels.
void make_mix_adjoint(const PatternView& p, const BasisColumns& columns, EntryLists* entries);
// Rows are (input channel, phase), entries (column of an output channel, phase).
void make_mix_adjoint_outputs(const ConvGeometry& g, const PatternView& p,
                              const BasisColumns& columns, int64_t phases, EntryLists* entries);
// Rows are columns, entries input channels: the first step of mix first.
void make_mix_gathered(const ConvGeometry& g, const PatternView& p, const BasisColumns& columns,
                       EntryLists* entries);

}  // namespace fbconv
