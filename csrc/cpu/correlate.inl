// Inner products of one output-gradient row with many shifted source rows: the gradient block stays
// in registers while the row list is walked, and each product is reduced once per block.

template <typename T, int J>
inline void correlate_block(const T* x, const T* y, const int32_t* offset, const int32_t* value,
                            T* out, int32_t first, int32_t last) {
  using V = Vec<T>;
  typename V::Type grad[J];
#pragma GCC unroll 16
  for (int j = 0; j < J; ++j) grad[j] = V::load(y + j * V::kLanes);
  for (int32_t k = first; k < last; ++k) {
    const T* source = x + offset[k];
    typename V::Type even = grad[0] * V::load(source), odd{};
#pragma GCC unroll 16
    for (int j = 1; j < J; ++j) {
      (j % 2 ? odd : even) += grad[j] * V::load(source + j * V::kLanes);
    }
    out[value ? value[k] : k] += V::sum(even + odd);
  }
}

template <typename T>
void correlate(const T* x, const T* y, int64_t y_pitch, const int32_t* ptr, const int32_t* offset,
               const int32_t* value, T* out, int64_t row_begin, int64_t row_end,
               int64_t positions) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  int64_t p = 0;
  const auto sweep = [&](auto width) {
    constexpr int J = decltype(width)::value;
    for (; p + J * kLanes <= positions; p += J * kLanes) {
      for (int64_t row = row_begin; row < row_end; ++row) {
        correlate_block<T, J>(x + p, y + (row - row_begin) * y_pitch + p, offset, value, out,
                              ptr[row], ptr[row + 1]);
      }
    }
  };
  sweep(Width<8>{});
  sweep(Width<4>{});
  sweep(Width<2>{});
  sweep(Width<1>{});
}
