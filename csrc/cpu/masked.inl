// Gathers and inner products on maps that are read where they lie: the lanes of a load that leave
// the map are masked, so that nothing has to be packed.  For instruction sets with such loads.

#ifdef __AVX512F__

// Which masks spots have: each its own, all the same (they are the same place of several images),
// or none.
enum class Masks { kOwn, kShared, kOpen };

template <typename T, Masks kMasks>
struct SpotMasks {
  const uint16_t* table;
  int64_t step;

  typename Vec<T>::Type load(const T* from, int spot, uint8_t mask) const {
    if constexpr (kMasks == Masks::kOpen) return Vec<T>::load(from);
    return Vec<T>::load_lanes(from, at(spot, mask));
  }
  uint16_t at(int spot, uint8_t mask) const {
    return table[kMasks == Masks::kShared ? mask : spot * step + mask];
  }
};

template <typename T, int P, Masks kMasks>
__attribute__((always_inline)) inline void masked_gather_row(const MaskedWork<T>& w, const T* x,
                                                             SpotMasks<T, kMasks> masks,
                                                             const T* values, int64_t row, T bias,
                                                             bool accumulate, T* y) {
  using V = Vec<T>;
  constexpr int kChains = P >= 4 ? 1 : 4 / P;
  typename V::Type sum[kChains][P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    sum[0][p] =
        accumulate ? masks.load(y + p * w.y_step, p, w.own_mask) : bias - typename V::Type{};
#pragma GCC unroll 8
    for (int c = 1; c < kChains; ++c) sum[c][p] = typename V::Type{};
  }
  const bool in_order = w.value == nullptr;
  const int64_t first = in_order ? w.first_value[row] - w.ptr[row] : 0;
  const auto add = [&](int32_t k, int chain) {
    const T* source = x + w.offset[k];
    const T value = values[in_order ? first + k : w.value[k]];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      sum[chain][p] += value * masks.load(source + p * w.x_step, p, w.mask[k]);
    }
  };
  int32_t k = w.ptr[row];
  const int32_t end = w.ptr[row + 1];
  for (; k + kChains <= end; k += kChains) {
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c) add(k + c, c);
  }
  if constexpr (kChains > 1) {
    for (; k < end; ++k) add(k, 0);
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    typename V::Type total = sum[0][p];
#pragma GCC unroll 8
    for (int c = 1; c < kChains; ++c) total += sum[c][p];
    V::store_masked(y + p * w.y_step, total, masks.at(p, w.own_mask));
  }
}

template <typename T, int P, Masks kMasks>
__attribute__((noinline)) void masked_correlate_rows(const MaskedWork<T>& w, const T* x, const T* y,
                                                     SpotMasks<T, kMasks> masks, T* sums) {
  using V = Vec<T>;
  for (int64_t row = w.row_begin; row < w.row_end; ++row, y += w.y_row) {
    const int32_t first = w.ptr[row], count = w.ptr[row + 1] - first;
    if (count == 0) continue;
    typename V::Type grad[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) grad[p] = masks.load(y + p * w.y_step, p, w.own_mask);
    const auto product = [&](int32_t k) {
      typename V::Type even{}, odd{};
      const T* source = x + w.offset[first + k];
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        (p % 2 ? odd : even) += grad[p] * masks.load(source + p * w.x_step, p, w.mask[first + k]);
      }
      return P > 1 ? even + odd : even;
    };
    add_all_products<T>(count, product, sums + first);
  }
}

// Calls f(Group<P>, first) for groups of up to kMost spots.
template <int kMost, typename F>
inline void for_spots(int64_t spots, const F& f) {
  int64_t spot = 0;
  if constexpr (kMost >= 8) {
    for (; spot + 8 <= spots; spot += 8) f(Group<8>{}, spot);
  }
  for (; spot + 4 <= spots; spot += 4) f(Group<4>{}, spot);
  for (; spot + 2 <= spots; spot += 2) f(Group<2>{}, spot);
  if (spot < spots) f(Group<1>{}, spot);
}

template <typename T, Masks kMasks>
void masked_gather_spots(const MaskedWork<T>& w, const T* values, const T* bias, bool accumulate,
                         T* y) {
  for_spots<4>(w.spots, [&](auto group, int64_t spot) {
    constexpr int P = decltype(group)::value;
    const SpotMasks<T, kMasks> masks{w.masks + spot * w.mask_step, w.mask_step};
    T* to = y + spot * w.y_step;
    for (int64_t row = w.row_begin; row < w.row_end; ++row, to += w.y_row) {
      if (accumulate && w.ptr[row] == w.ptr[row + 1]) continue;
      masked_gather_row<T, P, kMasks>(w, w.x + spot * w.x_step, masks, values, row,
                                      bias ? bias[row] : T(0), accumulate, to);
    }
  });
}

template <typename T>
void masked_gather(const MaskedWork<T>& w, const T* values, const T* bias, bool accumulate, T* y) {
  if (w.open) {
    masked_gather_spots<T, Masks::kOpen>(w, values, bias, accumulate, y);
  } else if (w.mask_step == 0) {
    masked_gather_spots<T, Masks::kShared>(w, values, bias, accumulate, y);
  } else {
    masked_gather_spots<T, Masks::kOwn>(w, values, bias, accumulate, y);
  }
}

// Entries that share their values add to whole vectors, whose lanes are summed up at the very end.
// Those of a row use neighbouring values.
// G rows that read the same, and E of their entries, at once: each vector of the source is loaded
// once for all rows, each of the gradients once for all entries.
template <typename T, int P, int G, int E, Masks kMasks>
__attribute__((always_inline)) inline void correlate_run(const MaskedWork<T>& w, const T* x,
                                                         const T* y, SpotMasks<T, kMasks> masks,
                                                         int64_t row, int32_t first, T* sums) {
  using V = Vec<T>;
  typename V::Type sum[G][E] = {};
  const int32_t* offset = w.offset + w.ptr[row] + first;
  const uint8_t* mask = w.mask + w.ptr[row] + first;
  for (int p = 0; p < P; ++p) {
    typename V::Type grad[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      grad[g] = masks.load(y + g * w.y_row + p * w.y_step, p, w.own_mask);
    }
#pragma GCC unroll 9
    for (int e = 0; e < E; ++e) {
      const typename V::Type source = masks.load(x + offset[e] + p * w.x_step, p, mask[e]);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) sum[g][e] += grad[g] * source;
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) {
    T* to = sums + static_cast<int64_t>(w.value[w.ptr[row + g] + first]) * V::kLanes;
#pragma GCC unroll 9
    for (int e = 0; e < E; ++e) {
      V::store(to + e * V::kLanes, V::load(to + e * V::kLanes) + sum[g][e]);
    }
  }
}

template <typename T, int P, int G, Masks kMasks>
__attribute__((noinline)) void correlate_run_entries(const MaskedWork<T>& w, const T* x, const T* y,
                                                     SpotMasks<T, kMasks> masks, int64_t row,
                                                     T* sums) {
  const int32_t count = w.ptr[row + 1] - w.ptr[row];
  int32_t k = 0;
  for (; k + 9 <= count; k += 9) correlate_run<T, P, G, 9>(w, x, y, masks, row, k, sums);
  for (; k + 3 <= count; k += 3) correlate_run<T, P, G, 3>(w, x, y, masks, row, k, sums);
  for (; k < count; ++k) correlate_run<T, P, G, 1>(w, x, y, masks, row, k, sums);
}

template <typename T, int P, Masks kMasks>
void masked_correlate_shared_rows(const MaskedWork<T>& w, const T* x, const T* y,
                                  SpotMasks<T, kMasks> masks, T* sums) {
  for (int64_t row = w.row_begin; row < w.row_end;) {
    const int64_t left = (w.run_end[row] < w.row_end ? w.run_end[row] : w.row_end) - row;
    const int64_t rows = left >= 3 && left != 4 ? 3 : left >= 2 ? 2 : 1;
    if (rows == 3) {
      correlate_run_entries<T, P, 3>(w, x, y, masks, row, sums);
    } else if (rows == 2) {
      correlate_run_entries<T, P, 2>(w, x, y, masks, row, sums);
    } else {
      correlate_run_entries<T, P, 1>(w, x, y, masks, row, sums);
    }
    row += rows;
    y += rows * w.y_row;
  }
}

template <typename T, Masks kMasks>
void masked_correlate_spots(const MaskedWork<T>& w, const T* y, T* sums) {
  for_spots<8>(w.spots, [&](auto group, int64_t spot) {
    constexpr int P = decltype(group)::value;
    masked_correlate_rows<T, P, kMasks>(w, w.x + spot * w.x_step, y + spot * w.y_step,
                                        {w.masks + spot * w.mask_step, w.mask_step}, sums);
  });
}

template <typename T>
void masked_correlate(const MaskedWork<T>& w, const T* y, T* sums) {
  if (w.open) {
    masked_correlate_spots<T, Masks::kOpen>(w, y, sums);
  } else if (w.mask_step == 0) {
    masked_correlate_spots<T, Masks::kShared>(w, y, sums);
  } else {
    masked_correlate_spots<T, Masks::kOwn>(w, y, sums);
  }
}

template <typename T, Masks kMasks>
void masked_correlate_shared_spots(const MaskedWork<T>& w, const T* y, T* sums) {
  for_spots<8>(w.spots, [&](auto group, int64_t spot) {
    constexpr int P = decltype(group)::value;
    masked_correlate_shared_rows<T, P, kMasks>(w, w.x + spot * w.x_step, y + spot * w.y_step,
                                               {w.masks + spot * w.mask_step, w.mask_step}, sums);
  });
}

template <typename T>
void masked_correlate_shared(const MaskedWork<T>& w, const T* y, T* sums) {
  if (w.open) {
    masked_correlate_shared_spots<T, Masks::kOpen>(w, y, sums);
  } else if (w.mask_step == 0) {
    masked_correlate_shared_spots<T, Masks::kShared>(w, y, sums);
  } else {
    masked_correlate_shared_spots<T, Masks::kOwn>(w, y, sums);
  }
}

#endif
