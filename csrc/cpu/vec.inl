// The compiler's own vectors, as wide as this instruction set's registers: one source for all.

template <typename T>
struct Vec {
  static constexpr int kLanes = FBCONV_VECTOR_BYTES / sizeof(T);
  typedef T Type __attribute__((vector_size(FBCONV_VECTOR_BYTES)));
  typedef T Loose __attribute__((vector_size(FBCONV_VECTOR_BYTES), aligned(sizeof(T)), may_alias));

  static Type load(const T* p) { return *reinterpret_cast<const Loose*>(p); }
  static void store(T* p, Type v) { *reinterpret_cast<Loose*>(p) = v; }

  // Lanes without their bit are zero and not touched in memory.
  static Type load_masked(const T* p, uint16_t mask) {
    if (mask == kFull) return load(p);
#if defined(__AVX512F__)
    return load_lanes(p, mask);
#else
    T lane[kLanes];
    for (int i = 0; i < kLanes; ++i) lane[i] = mask >> i & 1 ? p[i] : T(0);
    return load(lane);
#endif
  }
  // The same of elements `step` apart, a number below 2^27.
  static Type load_strided(const T* p, int64_t step, uint16_t mask) {
#if defined(__AVX512F__)
    const int s = static_cast<int>(step);
    if constexpr (sizeof(T) == 4) {
      const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      const __m512i index = _mm512_mullo_epi32(lane, _mm512_set1_epi32(s));
      return reinterpret_cast<Type>(
          _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, p, sizeof(T)));
    } else {
      const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
      const __m256i index = _mm256_mullo_epi32(lane, _mm256_set1_epi32(s));
      return reinterpret_cast<Type>(_mm512_mask_i32gather_pd(
          _mm512_setzero_pd(), static_cast<__mmask8>(mask), index, p, sizeof(T)));
    }
#else
    T lane[kLanes];
    for (int i = 0; i < kLanes; ++i) lane[i] = mask >> i & 1 ? p[i * step] : T(0);
    return load(lane);
#endif
  }
  static void store_masked(T* p, Type v, uint16_t mask) {
    if (mask == kFull) return store(p, v);
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
      _mm512_mask_storeu_ps(p, mask, reinterpret_cast<__m512>(v));
    } else {
      _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), reinterpret_cast<__m512d>(v));
    }
#else
    T lane[kLanes];
    store(lane, v);
    for (int i = 0; i < kLanes; ++i) {
      if (mask >> i & 1) p[i] = lane[i];
    }
#endif
  }

#if defined(__AVX512F__)
  // As load_masked, where masks are seldom full: without a branch.
  static Type load_lanes(const T* p, uint16_t mask) {
    if constexpr (sizeof(T) == 4) {
      return reinterpret_cast<Type>(_mm512_maskz_loadu_ps(mask, p));
    } else {
      return reinterpret_cast<Type>(_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p));
    }
  }
#endif

  // The sums of N vectors' lanes as the first N lanes of one, N a power of two; destroys them.
  template <int N>
  static Type sum_each(Type* v) {
#pragma GCC unroll 4
    for (int half = N / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < half; ++i) {
        v[i] = zip<0>(v[i], v[i + half]) + zip<kLanes / 2>(v[i], v[i + half]);
      }
    }
    Type sum = v[0];
    if constexpr (N <= kLanes / 2) sum += turn<kLanes / 2>(sum);
    if constexpr (N <= kLanes / 4) sum += turn<kLanes / 4>(sum);
    return sum;
  }

  // Lane i of vector j becomes lane j of vector i: perfect shuffles, log2 of them.
  static void transpose(Type* v) {
#pragma GCC unroll 4
    for (int round = 1; round < kLanes; round *= 2) {
      Type zipped[kLanes];
#pragma GCC unroll 8
      for (int i = 0; i < kLanes / 2; ++i) {
        zipped[2 * i] = zip<0>(v[i], v[i + kLanes / 2]);
        zipped[2 * i + 1] = zip<kLanes / 2>(v[i], v[i + kLanes / 2]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) v[i] = zipped[i];
    }
  }

 private:
  static constexpr uint16_t kFull = static_cast<uint16_t>((1u << kLanes) - 1);
  using Lanes = std::make_integer_sequence<int, kLanes>;

  // Lane i becomes lane i + kBy, around the end.
  template <int kBy>
  static Type turn(Type a) {
    return turn<kBy>(a, Lanes());
  }
  template <int kBy, int... I>
  static Type turn(Type a, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, a, ((I + kBy) % kLanes)...);
#else
    using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    typedef Index Indices __attribute__((vector_size(FBCONV_VECTOR_BYTES)));
    return __builtin_shuffle(a, Indices{((I + kBy) % kLanes)...});
#endif
  }

  // Lanes kFirst, kFirst + 1, ... of a and b in turn.
  template <int kFirst>
  static Type zip(Type a, Type b) {
    return zip<kFirst>(a, b, Lanes());
  }
  template <int kFirst, int... I>
  static Type zip(Type a, Type b, std::integer_sequence<int, I...>) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, (kFirst + I / 2 + I % 2 * kLanes)...);
#else
    using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    typedef Index Indices __attribute__((vector_size(FBCONV_VECTOR_BYTES)));
    return __builtin_shuffle(a, b, Indices{(kFirst + I / 2 + I % 2 * kLanes)...});
#endif
  }
};
