// A pattern compiled to AVX-512 code.
//
// Rows are taken in blocks whose sums fill the registers.  A block's entries are sorted by what they
// read, so that each source vector is loaded once for all rows of the block, where lists would load
// it once for each entry.  Only the pattern is compiled: values stay where they are, in the order of
// the mask, and are read as broadcast operands, so that training changes them under the same code.
#pragma once

#include <vector>

#include "../core/row_lists.h"
#include "executable.h"

namespace fbconv {

// Whether patterns can be compiled here: AVX-512, a system that lets a program make code, and no
// FBCONV_JIT=0.
bool can_compile_patterns();

// Row lists and where their operands lie, in floats.
struct Listing {
  const EntryLists* entries;
  int64_t planes, x_pitch;  // of the source
  int64_t y_pitch;          // between rows
  int64_t block_planes;     // planes that are worked on together
  int64_t group_rows;       // rows that come into being together: y points to a group's first
  bool x_restarts;          // whether x points to a block's first plane, or to the first of all
  int64_t masks;        // that entries use; one more follows them if stores are masked
  bool masked_stores;
  bool inner = false;   // y is scratch: it has no bias and is in cache
};

// One vector of a grid: where it lies from x and from y, and its lanes for each of the masks.
struct Spot {
  int64_t x, y;
  const uint16_t* masks;
};

class CompiledLists {
 public:
  // False if the lists cannot be compiled; they can do without then.
  bool compile(const Listing& listing);

  bool ready() const { return ready_; }
  int64_t row_blocks() const { return static_cast<int64_t>(row_blocks_.size()); }
  int64_t blocks() const { return blocks_; }
  // The row blocks of a group of rows.
  int64_t group_begin(int64_t group) const { return group_begin_[group]; }
  int64_t most_group_rows() const { return most_group_rows_; }

  // y = bias + sums over block 0, or y += sums over a later block, for some row blocks and spots.
  void run(int64_t row_block_begin, int64_t row_block_end, int64_t block,
           const std::vector<Spot>& spots, const float* x, const float* values, const float* bias,
           float* y) const;

  int64_t bytes() const;

 private:
  struct RowBlock {
    int64_t begin, end, group_first;
  };
  class Compiler;

  bool ready_ = false;
  int64_t blocks_ = 1, most_group_rows_ = 0;
  std::vector<RowBlock> row_blocks_;
  std::vector<int64_t> group_begin_;
  std::vector<int64_t> chunk_begin_;  // of (row block, block)
  std::vector<int64_t> chunk_code_;
  Executable code_;
};

}  // namespace fbconv
