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

// sums[i] += the lanes of product(i), for the first N of a vector of sums, of which `count` are
// wanted: the others repeat the last, which costs less than to branch.
template <typename T, int N, typename F>
__attribute__((always_inline)) inline void add_products(int32_t count, const F& product, T* sums) {
  using V = Vec<T>;
  typename V::Type products[N];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) products[i] = product(i < count ? i : count - 1);
  const uint16_t mask = static_cast<uint16_t>((1u << count) - 1);
  V::store_masked(sums, V::load_masked(sums, mask) + V::template sum_each<N>(products), mask);
}

// The same for any number of sums; product(k) is a vector.
template <typename T, typename F>
__attribute__((always_inline)) inline void add_all_products(int32_t count, const F& product,
                                                            T* sums) {
  using V = Vec<T>;
  int32_t k = 0;
  for (; k + V::kLanes <= count; k += V::kLanes) {
    typename V::Type products[V::kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < V::kLanes; ++i) products[i] = product(k + i);
    V::store(sums + k, V::load(sums + k) + V::template sum_each<V::kLanes>(products));
  }
  // The rest a quarter of a vector at a time: what is repeated costs more than the shorter sums.
  constexpr int kQuarter = V::kLanes >= 4 ? V::kLanes / 4 : 1;
  for (; k < count; k += kQuarter) {
    const int32_t rest = count - k < kQuarter ? count - k : kQuarter;
    add_products<T, kQuarter>(rest, [&](int i) { return product(k + i); }, sums + k);
  }
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
  add_all_products<T>(
      count, [&](int32_t k) { return correlate_entry<T, R, C>(x + offset[k], x_line, grad); },
      sums);
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
