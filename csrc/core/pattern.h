// The packed sparsity pattern: one int32 tensor that travels with a layer.
//
//   [0] magic  [1] rows  [2] channels  [3] taps  [4] nnz  [5..7] zero
//   row_ptr[rows + 1]          where a row's entries start in index
//   index[nnz]                 channel * taps + tap, strictly rising within a row; entry k uses
//   values[k] channel_ptr[channels + 1]  where a channel's entries start in t_index t_index[nnz]
//   row * taps + tap, strictly rising within a channel t_value[nnz]               the value that a
//   transposed entry uses
//
// "channels" counts the input channels of one group.  The second half repeats the first transposed,
// because input gradients gather by channel and sorting in every step would cost more than they do.
#pragma once

#include <cstdint>
#include <string>

namespace fbconv {

constexpr int32_t kPatternMagic = 0x46424331;
constexpr int64_t kPatternHeader = 8;

// Tells contents apart without keeping them; zeros stand for "unknown".
struct Fingerprint {
  uint64_t low = 0, high = 0;
  bool known() const { return (low | high) != 0; }
  bool operator==(const Fingerprint& other) const { return low == other.low && high == other.high; }
};

struct PatternView {
  int64_t rows, channels, taps, nnz;
  const int32_t* row_ptr;
  const int32_t* index;
  const int32_t* channel_ptr;
  const int32_t* t_index;
  const int32_t* t_value;
  Fingerprint content = {};  // of the half that a pass reads
};

// nnz of a packed pattern of `numel` words, or -1 if no pattern of that shape has so many words.
inline int64_t pattern_nnz(int64_t numel, int64_t rows, int64_t channels) {
  const int64_t rest = numel - kPatternHeader - (rows + 1) - (channels + 1);
  return rest >= 0 && rest % 3 == 0 ? rest / 3 : -1;
}

inline PatternView view_pattern(const int32_t* packed, int64_t rows, int64_t channels, int64_t taps,
                                int64_t nnz) {
  PatternView p{rows,    channels, taps,    nnz,     packed + kPatternHeader,
                nullptr, nullptr,  nullptr, nullptr, {}};
  p.index = p.row_ptr + rows + 1;
  p.channel_ptr = p.index + nnz;
  p.t_index = p.channel_ptr + channels + 1;
  p.t_value = p.t_index + nnz;
  return p;
}

// What a pass is going to read, and hence what has to be true before a kernel may run.
enum class PatternHalf { kForward, kTransposed };

// Empty if the words that the pass reads are in range and in order, else what is wrong with them.
// Kernels take indices on trust, so this runs in front of each of them (one pass over nnz words).
std::string pattern_error(const int32_t* packed, const PatternView& pattern, PatternHalf half);

}  // namespace fbconv
