// Inner products of one output-gradient row with many shifted source rows: a step of the gradient
// stays in registers while the list is walked, and as many products as a vector has lanes are
// summed over their lanes together.

template <typename T, int R, int C>
inline typename Vec<T>::Type correlate_entry(const T* source, int64_t x_line,
                                             const typename Vec<T>::Type* grad) {
  using V = Vec<T>;
  typename V::Type even{}, odd{};
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      ((r * C + c) % 2 ? odd : even) +=
          grad[r * C + c] * V::load(source + r * x_line + c * V::kLanes);
    }
  }
  return R * C > 1 ? even + odd : even;
}

template <typename T, int R, int C>
__attribute__((always_inline)) inline void correlate_step(const T* x, int64_t x_line, const T* y,
                                                          int64_t y_line, const int32_t* offset,
                                                          int32_t count, T* sums) {
  using V = Vec<T>;
  typename V::Type grad[R * C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) grad[r * C + c] = V::load(y + r * y_line + c * V::kLanes);
  }
  int32_t k = 0;
  for (; k + V::kLanes <= count; k += V::kLanes) {
    typename V::Type products[V::kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < V::kLanes; ++i) {
      products[i] = correlate_entry<T, R, C>(x + offset[k + i], x_line, grad);
    }
    V::store(sums + k, V::load(sums + k) + V::sum_each(products));
  }
  if (k == count) return;
  typename V::Type products[V::kLanes] = {};
  for (int32_t i = 0; k + i < count; ++i) {
    products[i] = correlate_entry<T, R, C>(x + offset[k + i], x_line, grad);
  }
  const uint16_t mask = static_cast<uint16_t>((1u << (count - k)) - 1);
  V::store_masked(sums + k, V::load_masked(sums + k, mask) + V::sum_each(products), mask);
}

template <typename T, int R, int C>
__attribute__((noinline)) void correlate_rows(const ListWork<T>& work, const T* x, const T* y,
                                              T* sums) {
  for (int64_t row = work.row_begin; row < work.row_end; ++row, y += work.y_row) {
    const int32_t first = work.ptr[row], count = work.ptr[row + 1] - first;
    if (count == 0) continue;
    correlate_step<T, R, C>(x, work.x_line, y, work.y_line, work.offset + first, count,
                            sums + first);
  }
}

template <typename T>
void correlate(const ListWork<T>& work, const T* y, T* sums) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  for_steps<8>(work.lines, work.line, [&](auto step, int64_t line, int64_t vector) {
    using S = decltype(step);
    correlate_rows<T, S::kLines, S::kVectors>(work, work.x + line * work.x_line + vector * kLanes,
                                              y + line * work.y_line + vector * kLanes, sums);
  });
}
