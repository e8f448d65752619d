// Sum of shifted source vectors: a step of the output stays in registers for a whole list, so the
// output is written once per block and every multiply costs one load.

// A small step walks several entries at once, each into sums of its own: one chain of additions
// would wait for itself.
template <typename T, int R, int C>
__attribute__((always_inline)) inline void gather_step(const T* x, int64_t x_line, T* y,
                                                       int64_t y_line, const int32_t* offset,
                                                       const T* values, int32_t count, T bias,
                                                       bool accumulate) {
  using V = Vec<T>;
  constexpr int kChains = R * C >= 5 ? 1 : 8 / (R * C);
  typename V::Type sum[kChains][R * C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      sum[0][r * C + c] =
          accumulate ? V::load(y + r * y_line + c * V::kLanes) : bias - typename V::Type{};
    }
  }
#pragma GCC unroll 8
  for (int chain = 1; chain < kChains; ++chain) {
#pragma GCC unroll 8
    for (int i = 0; i < R * C; ++i) sum[chain][i] = typename V::Type{};
  }
  const auto add = [&](int32_t k, typename V::Type* to) {
    const T* source = x + offset[k];
    const T value = values[k];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        to[r * C + c] += value * V::load(source + r * x_line + c * V::kLanes);
      }
    }
  };
  int32_t k = 0;
  for (; k + kChains <= count; k += kChains) {
#pragma GCC unroll 8
    for (int chain = 0; chain < kChains; ++chain) add(k + chain, sum[chain]);
  }
  if constexpr (kChains > 1) {
    for (; k < count; ++k) add(k, sum[0]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      typename V::Type total = sum[0][r * C + c];
#pragma GCC unroll 8
      for (int chain = 1; chain < kChains; ++chain) total += sum[chain][r * C + c];
      V::store(y + r * y_line + c * V::kLanes, total);
    }
  }
}

constexpr int64_t kRowsAhead = 4;

// All rows over one step before the next: what they read of a block stays in the first cache.
template <typename T, int R, int C>
__attribute__((noinline)) void gather_rows(const ListWork<T>& work, const T* x, const T* values,
                                           const T* bias, bool accumulate, T* y) {
  for (int64_t row = work.row_begin; row < work.row_end; ++row, y += work.y_row) {
    const int32_t first = work.ptr[row], count = work.ptr[row + 1] - first;
    if (accumulate && count == 0) continue;
    // Short lists are done before memory has fetched what they are going to write.
    if (!accumulate) {
#pragma GCC unroll 8
      for (int i = 0; i < R * C; ++i) {
        __builtin_prefetch(
            y + kRowsAhead * work.y_row + i / C * work.y_line + i % C * Vec<T>::kLanes, 1);
      }
    }
    gather_step<T, R, C>(x, work.x_line, y, work.y_line, work.offset + first, values + first, count,
                         bias ? bias[row] : T(0), accumulate);
  }
}

template <typename T>
void gather(const ListWork<T>& work, const T* values, const T* bias, bool accumulate, T* y) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  for_steps<8>(work.lines, work.line, [&](auto step, int64_t line, int64_t vector) {
    using S = decltype(step);
    gather_rows<T, S::kLines, S::kVectors>(work, work.x + line * work.x_line + vector * kLanes,
                                           values, bias, accumulate,
                                           y + line * work.y_line + vector * kLanes);
  });
}
