// Gathers and inner products on maps that are read where they lie: the lanes of a load that leave
// the map are masked, so that nothing has to be packed.  For instruction sets with such loads.

#ifdef __AVX512F__

// Masks of P spots for the next entry; one serves all where spots are the same place of several
// images.
template <typename T, int P, bool kShared>
struct SpotMasks {
  const uint16_t* table;
  int64_t step;

  uint16_t at(int spot, uint8_t mask) const {
    return table[kShared ? mask : spot * step + mask];
  }
};

template <typename T, int P, bool kShared>
__attribute__((always_inline)) inline void masked_gather_row(const MaskedWork<T>& w, const T* x,
                                                             SpotMasks<T, P, kShared> masks,
                                                             const T* values, int64_t row, T bias,
                                                             bool accumulate, T* y) {
  using V = Vec<T>;
  constexpr int kChains = P >= 4 ? 1 : 4 / P;
  typename V::Type sum[kChains][P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    sum[0][p] = accumulate ? V::load_masked(y + p * w.y_step, masks.at(p, w.own_mask))
                           : bias - typename V::Type{};
#pragma GCC unroll 8
    for (int c = 1; c < kChains; ++c) sum[c][p] = typename V::Type{};
  }
  const auto add = [&](int32_t k, int chain) {
    const T* source = x + w.offset[k];
    const T value = values[w.value != nullptr ? w.value[k] : k];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      sum[chain][p] += value * V::load_lanes(source + p * w.x_step, masks.at(p, w.mask[k]));
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

template <typename T, int P, bool kShared>
__attribute__((noinline)) void masked_correlate_rows(const MaskedWork<T>& w, const T* x, const T* y,
                                                     SpotMasks<T, P, kShared> masks, T* sums) {
  using V = Vec<T>;
  for (int64_t row = w.row_begin; row < w.row_end; ++row, y += w.y_row) {
    int32_t k = w.ptr[row];
    const int32_t end = w.ptr[row + 1];
    if (k == end) continue;
    typename V::Type grad[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) grad[p] = V::load_masked(y + p * w.y_step, masks.at(p, w.own_mask));
    const auto product = [&](int32_t entry) {
      typename V::Type even{}, odd{};
      const T* source = x + w.offset[entry];
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        (p % 2 ? odd : even) +=
            grad[p] * V::load_lanes(source + p * w.x_step, masks.at(p, w.mask[entry]));
      }
      return P > 1 ? even + odd : even;
    };
    for (; k + V::kLanes <= end; k += V::kLanes) {
      typename V::Type products[V::kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < V::kLanes; ++i) products[i] = product(k + i);
      V::store(sums + k, V::load(sums + k) + V::sum_each(products));
    }
    if (k == end) continue;
    typename V::Type products[V::kLanes] = {};
    for (int32_t i = 0; k + i < end; ++i) products[i] = product(k + i);
    const uint16_t rest = static_cast<uint16_t>((1u << (end - k)) - 1);
    V::store_masked(sums + k, V::load_masked(sums + k, rest) + V::sum_each(products), rest);
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

template <typename T, bool kShared>
void masked_gather_spots(const MaskedWork<T>& w, const T* values, const T* bias, bool accumulate,
                         T* y) {
  for_spots<4>(w.spots, [&](auto group, int64_t spot) {
    constexpr int P = decltype(group)::value;
    const SpotMasks<T, P, kShared> masks{w.masks + spot * w.mask_step, w.mask_step};
    T* to = y + spot * w.y_step;
    for (int64_t row = w.row_begin; row < w.row_end; ++row, to += w.y_row) {
      if (accumulate && w.ptr[row] == w.ptr[row + 1]) continue;
      masked_gather_row<T, P, kShared>(w, w.x + spot * w.x_step, masks, values, row,
                                       bias ? bias[row] : T(0), accumulate, to);
    }
  });
}

template <typename T>
void masked_gather(const MaskedWork<T>& w, const T* values, const T* bias, bool accumulate, T* y) {
  (w.mask_step == 0 ? masked_gather_spots<T, true> : masked_gather_spots<T, false>)(
      w, values, bias, accumulate, y);
}

// Entries that share their values add to whole vectors, whose lanes are summed up at the very end.
template <typename T, int P, bool kShared>
__attribute__((noinline)) void masked_correlate_shared_rows(const MaskedWork<T>& w, const T* x,
                                                            const T* y,
                                                            SpotMasks<T, P, kShared> masks,
                                                            T* sums) {
  using V = Vec<T>;
  for (int64_t row = w.row_begin; row < w.row_end; ++row, y += w.y_row) {
    typename V::Type grad[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) grad[p] = V::load_lanes(y + p * w.y_step, masks.at(p, w.own_mask));
    for (int32_t k = w.ptr[row]; k < w.ptr[row + 1]; ++k) {
      T* sum = sums + static_cast<int64_t>(w.value[k]) * V::kLanes;
      const T* source = x + w.offset[k];
      typename V::Type even = V::load(sum), odd{};
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        (p % 2 ? odd : even) +=
            grad[p] * V::load_lanes(source + p * w.x_step, masks.at(p, w.mask[k]));
      }
      V::store(sum, even + odd);
    }
  }
}

template <typename T, bool kShared>
void masked_correlate_spots(const MaskedWork<T>& w, const T* y, T* sums) {
  for_spots<8>(w.spots, [&](auto group, int64_t spot) {
    constexpr int P = decltype(group)::value;
    masked_correlate_rows<T, P, kShared>(w, w.x + spot * w.x_step, y + spot * w.y_step,
                                         {w.masks + spot * w.mask_step, w.mask_step}, sums);
  });
}

template <typename T>
void masked_correlate(const MaskedWork<T>& w, const T* y, T* sums) {
  (w.mask_step == 0 ? masked_correlate_spots<T, true> : masked_correlate_spots<T, false>)(w, y,
                                                                                       sums);
}

template <typename T, bool kShared>
void masked_correlate_shared_spots(const MaskedWork<T>& w, const T* y, T* sums) {
  for_spots<8>(w.spots, [&](auto group, int64_t spot) {
    constexpr int P = decltype(group)::value;
    masked_correlate_shared_rows<T, P, kShared>(w, w.x + spot * w.x_step, y + spot * w.y_step,
                                                {w.masks + spot * w.mask_step, w.mask_step}, sums);
  });
}

template <typename T>
void masked_correlate_shared(const MaskedWork<T>& w, const T* y, T* sums) {
  (w.mask_step == 0 ? masked_correlate_shared_spots<T, true>
                    : masked_correlate_shared_spots<T, false>)(w, y, sums);
}

#endif
