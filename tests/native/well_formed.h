// Packed patterns that are well-formed by the definition in csrc/core/pattern.h, word for word.
#pragma once

#include <cstdint>
#include <vector>

#include "../../csrc/core/pattern.h"

namespace fbconv::test {

struct PatternShape {
  int64_t rows, channels, taps, nnz;
};

inline bool list_is_well_formed(const std::vector<int32_t>& words, int64_t ptr, int64_t lists,
                                int64_t index, int64_t nnz, int64_t bound) {
  if (words[ptr] != 0 || words[ptr + lists] != nnz) return false;
  for (int64_t i = 0; i < lists; ++i) {
    const int64_t begin = words[ptr + i], end = words[ptr + i + 1];
    if (begin < 0 || begin > end || end > nnz) return false;
    for (int64_t k = begin; k < end; ++k) {
      const int64_t value = words[index + k];
      if (value < 0 || value >= bound || (k > begin && value <= words[index + k - 1])) return false;
    }
  }
  return true;
}

inline bool is_well_formed(const std::vector<int32_t>& words, const PatternShape& p,
                           PatternHalf half) {
  const int64_t row_ptr = kPatternHeader, index = row_ptr + p.rows + 1;
  const int64_t channel_ptr = index + p.nnz, t_index = channel_ptr + p.channels + 1;
  const std::vector<int64_t> header{kPatternMagic, p.rows, p.channels, p.taps, p.nnz};
  if (std::vector<int64_t>(words.begin(), words.begin() + 5) != header) return false;
  if (half == PatternHalf::kForward) {
    return list_is_well_formed(words, row_ptr, p.rows, index, p.nnz, p.channels * p.taps);
  }
  for (int64_t k = 0; k < p.nnz; ++k) {
    const int32_t value = words[t_index + p.nnz + k];
    if (value < 0 || value >= p.nnz) return false;
  }
  return list_is_well_formed(words, channel_ptr, p.channels, t_index, p.nnz, p.rows * p.taps);
}

}  // namespace fbconv::test
