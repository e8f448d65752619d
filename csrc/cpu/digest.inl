// What tells patterns apart, as fast as the caches deliver them: 32 chains of 64 bits, each of
// which takes two words of a block.

#if defined(__AVX512F__)
// With masks that keep all: GCC 12 warns of what the plain forms leave undefined.
struct Chains {
  using Type = __m512i;
  static Type load(const char* p) { return _mm512_loadu_si512(p); }
  static Type swap_halves(Type v) { return _mm512_maskz_shuffle_epi32(0xffff, v, _MM_PERM_CDAB); }
  static Type multiply_low(Type a, Type b) { return _mm512_maskz_mul_epu32(0xff, a, b); }
  static Type add(Type a, Type b) { return _mm512_add_epi64(a, b); }
};
#elif defined(__AVX2__)
struct Chains {
  using Type = __m256i;
  static Type load(const char* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Type swap_halves(Type v) { return _mm256_shuffle_epi32(v, _MM_SHUFFLE(2, 3, 0, 1)); }
  static Type multiply_low(Type a, Type b) { return _mm256_mul_epu32(a, b); }
  static Type add(Type a, Type b) { return _mm256_add_epi64(a, b); }
};
#elif defined(__SSE2__)
struct Chains {
  using Type = __m128i;
  static Type load(const char* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static Type swap_halves(Type v) { return _mm_shuffle_epi32(v, _MM_SHUFFLE(2, 3, 0, 1)); }
  static Type multiply_low(Type a, Type b) { return _mm_mul_epu32(a, b); }
  static Type add(Type a, Type b) { return _mm_add_epi64(a, b); }
};
#else
struct Chains {
  using Type = uint64_t;
  static Type load(const char* p) {
    Type v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
  }
  static Type swap_halves(Type v) { return v << 32 | v >> 32; }
  static Type multiply_low(Type a, Type b) { return (a & 0xffffffff) * (b & 0xffffffff); }
  static Type add(Type a, Type b) { return a + b; }
};
#endif

// A chain becomes low * high + swapped = (low + 1) (high + 2^32) - 2^32 of itself xor the words: no
// change of either half leaves that as it was, and the next words meet another chain, so that their
// order counts.
inline void digest(const void* words, int64_t blocks, uint64_t* chains) {
  constexpr int kBlock = kDigestWords * sizeof(int32_t), kVector = sizeof(Chains::Type);
  constexpr int kVectors = kBlock / kVector;
  Chains::Type chain[kVectors];
  __builtin_memcpy(chain, chains, sizeof(chain));
  const char* from = static_cast<const char*>(words);
  for (const char* end = from + blocks * kBlock; from < end; from += kBlock) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const Chains::Type met = chain[v] ^ Chains::load(from + v * kVector);
      const Chains::Type swapped = Chains::swap_halves(met);
      chain[v] = Chains::add(Chains::multiply_low(met, swapped), swapped);
    }
  }
  __builtin_memcpy(chains, chain, sizeof(chain));
}
