// Rows that read the same source vectors, as the elements of a filter basis do: a vector is loaded
// once for all of them, so that a multiply costs about half a load instead of one.

constexpr int64_t kRunRows = FBCONV_VECTOR_BYTES == 64 ? 5 : 2;  // their sums fill the registers

template <typename T, int G, int R, int C>
__attribute__((always_inline)) inline void run_step(const T* x, int64_t x_line, T* y, int64_t y_row,
                                                    int64_t y_line, const int32_t* offset,
                                                    const T* values, int32_t count) {
  using V = Vec<T>;
  typename V::Type sum[G][R * C];
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) {
#pragma GCC unroll 4
    for (int i = 0; i < R * C; ++i) sum[g][i] = typename V::Type{};
  }
  for (int32_t k = 0; k < count; ++k) {
    const T* source = x + offset[k];
    typename V::Type loaded[R * C];
#pragma GCC unroll 4
    for (int i = 0; i < R * C; ++i) {
      loaded[i] = V::load(source + i / C * x_line + i % C * V::kLanes);
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 4
      for (int i = 0; i < R * C; ++i) sum[g][i] += values[g * count + k] * loaded[i];
    }
  }
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) {
#pragma GCC unroll 4
    for (int i = 0; i < R * C; ++i) {
      V::store(y + g * y_row + i / C * y_line + i % C * V::kLanes, sum[g][i]);
    }
  }
}

template <typename T, int R, int C>
__attribute__((noinline)) void run_rows(const ListWork<T>& work, const int32_t* run_end, const T* x,
                                        const T* values, T* y) {
  for (int64_t row = work.row_begin; row < work.row_end;) {
    const int64_t end = run_end[row] < work.row_end ? run_end[row] : work.row_end;
    // Two parts of almost equal size rather than a full one and a rest.
    const int64_t left = end - row;
    const int64_t half = left > kRunRows && left < 2 * kRunRows ? (left + 1) / 2 : left;
    const int64_t rows = half < kRunRows ? half : kRunRows;
    const int32_t first = work.ptr[row], count = work.ptr[row + 1] - first;
    const auto step = [&](auto group) {
      run_step<T, decltype(group)::value, R, C>(x, work.x_line, y, work.y_row, work.y_line,
                                                work.offset + first, values + first, count);
    };
    switch (rows) {
      case 1:
        step(Group<1>{});
        break;
      case 2:
        step(Group<2>{});
        break;
      case 3:
        step(Group<3>{});
        break;
      case 4:
        step(Group<4>{});
        break;
      default:
        step(Group<5>{});
        break;
    }
    row += rows;
    y += rows * work.y_row;
  }
}

template <typename T>
void gather_runs(const ListWork<T>& work, const int32_t* run_end, const T* values, T* y) {
  constexpr int64_t kLanes = Vec<T>::kLanes;
  for_steps<4>(work.lines, work.line, [&](auto step, int64_t line, int64_t vector) {
    using S = decltype(step);
    run_rows<T, S::kLines, S::kVectors>(work, run_end,
                                        work.x + line * work.x_line + vector * kLanes, values,
                                        y + line * work.y_line + vector * kLanes);
  });
}
