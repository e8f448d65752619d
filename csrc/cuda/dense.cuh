// Between values at a pattern and the dense (rows, channels, taps).
#pragma once

#include "lists.cuh"

namespace fbconv {

// Where entry k lies in the dense tensor; -1 if it is malformed.
FBCONV_HD inline int64_t dense_place(const PatternView& p, int32_t k) {
  const int32_t index = p.index[k];
  const int64_t row_words = p.channels * p.taps;
  return index < 0 || index >= row_words ? -1 : row_of(p, k) * row_words + index;
}

}  // namespace fbconv
