#include <algorithm>

#include "ops.h"

namespace fbconv {
namespace {

// Blocks of rows of about this many dense elements are worth a task.
constexpr int64_t kTaskElements = 32768;

template <typename F>
void for_row_blocks(const PatternView& p, const Parallel& parallel, const F& body) {
  const int64_t width = p.channels * p.taps;
  const int64_t block = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, width));
  parallel.for_each((p.rows + block - 1) / block, [&](int64_t task) {
    for (int64_t row = task * block; row < std::min(p.rows, (task + 1) * block); ++row) {
      body(row, row * width, width);
    }
  });
}

}  // namespace

template <typename T>
void embed(const PatternView& p, const T* values, const T* frozen, T* dense,
           const Parallel& parallel) {
  for_row_blocks(p, parallel, [&](int64_t row, int64_t start, int64_t width) {
    T* to = dense + start;
    if (frozen != nullptr) {
      std::copy(frozen + start, frozen + start + width, to);
    } else {
      std::fill(to, to + width, T(0));
    }
    for (int32_t k = p.row_ptr[row]; k < p.row_ptr[row + 1]; ++k) to[p.index[k]] = values[k];
  });
}

template <typename T>
void gather_values(const PatternView& p, const T* dense, T* values, const Parallel& parallel) {
  for_row_blocks(p, parallel, [&](int64_t row, int64_t start, int64_t) {
    for (int32_t k = p.row_ptr[row]; k < p.row_ptr[row + 1]; ++k) {
      values[k] = dense[start + p.index[k]];
    }
  });
}

#define FBCONV_INSTANTIATE(T)                                                          \
  template void embed<T>(const PatternView&, const T*, const T*, T*, const Parallel&); \
  template void gather_values<T>(const PatternView&, const T*, T*, const Parallel&);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
