// What a gather kernel walks: for every row, the offsets into a packed tile and the values to
// multiply with.  All pattern and geometry knowledge ends here; kernels see only these lists.
#pragma once

#include "buffer.h"
#include "pattern.h"
#include "tiling.h"

namespace fbconv {

struct RowLists {
  int64_t rows = 0, entries = 0;
  Buffer<int32_t> ptr, offset;
  Buffer<int32_t> value;        // which value an entry uses ...
  bool values_in_order = true;  // ... unless entry k simply uses value k

  void resize(int64_t row_count, int64_t entry_count, bool in_order);
};

// Rows are output channels; offsets point into tiles of the input.
void make_forward_lists(const ConvGeometry& g, const PatternView& p, const Sweep& sweep,
                        const Tiling& t, RowLists* lists);
// Rows are (input channel, phase); offsets point into tiles of the output gradient.
void make_adjoint_lists(const ConvGeometry& g, const PatternView& p, const Sweep& sweep,
                        const Tiling& t, RowLists* lists);

// Where tap (kh, kw) lies in a packed tile: its phase and whole shift as one offset.
struct TapTable {
  Buffer<int32_t> offset, phase;
};
void make_forward_taps(const ConvGeometry& g, const Sweep& sweep, const Tiling& t, TapTable* taps);
void make_adjoint_taps(const ConvGeometry& g, const Sweep& sweep, const Tiling& t, TapTable* taps);

}  // namespace fbconv
