// Values into a dense array and out of it, 16 dense elements at a time by the bits of a mask.

#if defined(__AVX512F__)
inline __m512 expanded(__m512 rest, uint16_t mask, const float* values) {
  return _mm512_mask_expandloadu_ps(rest, mask, values);
}
inline __m512d expanded(__m512d rest, uint8_t mask, const double* values) {
  return _mm512_mask_expandloadu_pd(rest, mask, values);
}

inline void expand_block(uint16_t mask, const float* values, const float* rest, float* dense) {
  const __m512 around = rest == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(rest);
  _mm512_storeu_ps(dense, expanded(around, mask, values));
}
inline void expand_block(uint16_t mask, const double* values, const double* rest, double* dense) {
  for (int half = 0; half < 2; ++half) {
    const __m512d around = rest == nullptr ? _mm512_setzero_pd() : _mm512_loadu_pd(rest + 8 * half);
    const uint8_t bits = static_cast<uint8_t>(mask >> 8 * half);
    _mm512_storeu_pd(dense + 8 * half, expanded(around, bits, values));
    values += __builtin_popcount(bits);
  }
}

// Packed in a register first: packing stores are microcode on some CPUs.
inline void compress_block(uint16_t mask, const float* dense, float* values) {
  const __mmask16 first = static_cast<__mmask16>((1u << __builtin_popcount(mask)) - 1);
  _mm512_mask_storeu_ps(values, first, _mm512_maskz_compress_ps(mask, _mm512_loadu_ps(dense)));
}
inline void compress_block(uint16_t mask, const double* dense, double* values) {
  for (int half = 0; half < 2; ++half) {
    const uint8_t bits = static_cast<uint8_t>(mask >> 8 * half);
    const __mmask8 first = static_cast<__mmask8>((1u << __builtin_popcount(bits)) - 1);
    const __m512d packed = _mm512_maskz_compress_pd(bits, _mm512_loadu_pd(dense + 8 * half));
    _mm512_mask_storeu_pd(values, first, packed);
    values += __builtin_popcount(bits);
  }
}
#else
template <typename T>
void expand_block(uint16_t mask, const T* values, const T* rest, T* dense) {
  for (int i = 0; i < kMaskBits; ++i) dense[i] = rest == nullptr ? T(0) : rest[i];
  for (unsigned bits = mask; bits != 0; bits &= bits - 1) dense[__builtin_ctz(bits)] = *values++;
}

template <typename T>
void compress_block(uint16_t mask, const T* dense, T* values) {
  for (unsigned bits = mask; bits != 0; bits &= bits - 1) *values++ = dense[__builtin_ctz(bits)];
}
#endif

template <typename T>
void expand(const uint16_t* mask, int64_t blocks, const T* values, const T* rest, T* dense) {
  for (int64_t b = 0; b < blocks; ++b) {
    expand_block(mask[b], values, rest, dense);
    values += __builtin_popcount(mask[b]);
    dense += kMaskBits;
    if (rest != nullptr) rest += kMaskBits;
  }
}

template <typename T>
void compress(const uint16_t* mask, int64_t blocks, const T* dense, T* values) {
  for (int64_t b = 0; b < blocks; ++b) {
    compress_block(mask[b], dense + b * kMaskBits, values);
    values += __builtin_popcount(mask[b]);
  }
}
