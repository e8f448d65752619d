// What the kernels walk: for every row the offsets into a packed tile and the values to multiply
// with, and which planes the tile is packed from.  All pattern and geometry knowledge ends here.
#pragma once

#include "buffer.h"
#include "pattern.h"
#include "tiling.h"

namespace fbconv {

// A source plane: one phase of one channel, shifted by what the tile's lanes have copied; `number`
// among those of its channel.
struct Plane {
  int32_t channel, phase_h, phase_w, shift_h, shift_w, number;
};

// The planes that are read at all, in rising order of channels; `kinds` are those of channel 0 by
// their number.
struct Planes {
  int64_t count = 0, numbers = 0;
  Buffer<Plane> list, kinds;

  int64_t bytes() const { return list.bytes() + kinds.bytes(); }
};

// Where the taps of a kernel lie in a channel's planes.
struct TapTable {
  int64_t planes = 0;  // per channel, if all are read
  Buffer<Plane> plane_list;
  Buffer<int32_t> plane, offset, out_phase, mask;  // of each tap
};
void make_forward_taps(const ConvGeometry& g, const Tiling& t, TapTable* taps);
void make_adjoint_taps(const ConvGeometry& g, const Sweep& sweep, const Tiling& t, TapTable* taps);

// Row lists before they are cut into blocks.  `mask` says which lanes an entry reads where a tile
// leaves that open.
struct Entry {
  int32_t plane, offset, value, mask = -1;
};
struct EntryLists {
  int64_t rows = 0, entries = 0;
  bool in_order = true;  // entry k uses value k
  Buffer<int32_t> ptr;
  Buffer<Entry> list;

  void resize(int64_t row_count, int64_t entry_count, bool values_in_order);
};

constexpr uint8_t kNoMask = 255;

// Row lists, cut into blocks of neighbouring planes so that what a block reads stays in a core's
// first cache: block b of row r has the entries ptr[b * rows + r] .. ptr[b * rows + r + 1] - 1.
struct RowLists {
  int64_t rows = 0, entries = 0, blocks = 1, block_planes = 0;
  bool values_in_order = true;  // entry k uses value k, else value[k]
  bool lists_in_order = true;   // the entries of a list use neighbouring values from first_value on
  Buffer<int32_t> ptr, offset, value, first_value;
  Buffer<uint8_t> mask;  // of each entry
  bool has_runs = false;
  Buffer<int32_t> run_end;  // where rows that read the same offsets as a row end (find_runs)

  const int32_t* block_ptr(int64_t block) const { return ptr.data() + block * rows; }
  int64_t bytes() const {
    return ptr.bytes() + offset.bytes() + value.bytes() + first_value.bytes() + mask.bytes() +
           run_end.bytes();
  }
};

// Offsets are of planes `pitch` apart; with `restart` each block's first plane lies at 0.  Without
// it a row's entries move to a neighbouring block where this makes their number a multiple of
// `group`.
void make_blocks(const EntryLists& entries, int64_t planes, int64_t block_planes, int64_t pitch,
                 bool restart, RowLists* lists, int64_t group = 1);
// Finds neighbouring rows with the same offsets, in lists of one block.
void find_runs(RowLists* lists);
// Of a block.  A gather's may overflow a first cache of 32 or 48 KB: what the second delivers
// meanwhile costs less than walking the rows more often, with their sums.
constexpr int64_t kGatherBytes = 60 * 1024, kCorrelateBytes = 24 * 1024;

// Planes per block for lists of which one step reads `plane_bytes` of every plane: as many as the
// cache holds, but enough that a row finds several entries in a block.  One block where a list is
// walked for only a few `vectors` in a call: bringing the values into its order would cost more.
int64_t planes_per_block(int64_t planes, int64_t plane_bytes, int64_t rows, int64_t entries,
                         int64_t vectors, int64_t block_bytes = kGatherBytes);
// What one step of a kernel reads of a source plane.
int64_t step_bytes(const Sweep& sweep, const Tiling& t, int64_t element_size);

// All planes of all channels.
void make_all_planes(const TapTable& taps, int64_t channels, Planes* planes);
// Keeps only planes that entries read; entries' planes are renumbered.
void drop_dead_planes(const TapTable& taps, int64_t channels, EntryLists* entries, Planes* planes);

// Rows are output channels; planes are of the input.
void make_forward_lists(const ConvGeometry& g, const PatternView& p, const TapTable& taps,
                        EntryLists* entries);
// Rows are (input channel, phase); planes are of the output gradient.
void make_adjoint_lists(const ConvGeometry& g, const PatternView& p, int64_t phases,
                        const TapTable& taps, EntryLists* entries);

}  // namespace fbconv
