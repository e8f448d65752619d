// Sum of shifted source vectors: an output block stays in registers for a whole row list, so the
// output is written once and every multiply costs one load.

// A narrow block walks several entries at once, each into sums of its own: one chain of additions
// would wait for itself.
template <typename T, int J>
inline void gather_block(const T* x, T* y, const int32_t* offset, const T* values, int32_t count,
                         T bias) {
  using V = Vec<T>;
  constexpr int kChains = J >= 8 ? 1 : 8 / J;
  typename V::Type sum[kChains][J];
#pragma GCC unroll 8
  for (int c = 0; c < kChains; ++c) {
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) sum[c][j] = (c == 0 ? bias : T(0)) - typename V::Type{};
  }
  int32_t k = 0;
  for (; k + kChains <= count; k += kChains) {
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c) {
      const T* source = x + offset[k + c];
      const T value = values[k + c];
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) sum[c][j] += value * V::load(source + j * V::kLanes);
    }
  }
  for (; k < count; ++k) {
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) sum[0][j] += values[k] * V::load(x + offset[k] + j * V::kLanes);
  }
#pragma GCC unroll 8
  for (int j = 0; j < J; ++j) {
#pragma GCC unroll 8
    for (int c = 1; c < kChains; ++c) sum[0][j] += sum[c][j];
    V::store(y + j * V::kLanes, sum[0][j]);
  }
}

// All rows over one block of positions before the next block: the block's source stays in L1.
template <typename T, int J>
inline void gather_rows(const T* x, T* y, int64_t y_pitch, const int32_t* ptr,
                        const int32_t* offset, const T* values, const T* bias, int64_t row_begin,
                        int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    const int32_t first = ptr[row];
    gather_block<T, J>(x, y + (row - row_begin) * y_pitch, offset + first, values + first,
                       ptr[row + 1] - first, bias ? bias[row] : T(0));
  }
}

template <typename T>
void gather(const T* x, T* y, int64_t y_pitch, const int32_t* ptr, const int32_t* offset,
            const T* values, const T* bias, int64_t row_begin, int64_t row_end, int64_t positions) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  int64_t p = 0;
  const auto sweep = [&](auto width) {
    constexpr int J = decltype(width)::value;
    for (; p + J * kLanes <= positions; p += J * kLanes) {
      gather_rows<T, J>(x + p, y + p, y_pitch, ptr, offset, values, bias, row_begin, row_end);
    }
  };
  sweep(Width<8>{});
  sweep(Width<4>{});
  sweep(Width<2>{});
  sweep(Width<1>{});
}
