// What the multipliers can do at best: independent multiply-adds on registers, no memory at all.

// Twice the eight chains that two units with a latency of four cycles need, or what fits into
// sixteen registers beside the two factors.
constexpr int kPeakChains = FBCONV_VECTOR_BYTES == 64 ? 16 : 12;

// lanes[c] = lanes[c] * factor + term, `steps` times over kPeakChains vectors; returns the number
// of floating-point operations. Each step needs the one before it, so none can be left out.
template <typename T>
double multiply_adds(T* lanes, T factor, T term, int64_t steps) {
  using V = Vec<T>;
  typename V::Type chain[kPeakChains];
#pragma GCC unroll 16
  for (int c = 0; c < kPeakChains; ++c) chain[c] = V::load(lanes + c * V::kLanes);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 16
    for (int c = 0; c < kPeakChains; ++c) chain[c] = chain[c] * factor + term;
  }
#pragma GCC unroll 16
  for (int c = 0; c < kPeakChains; ++c) V::store(lanes + c * V::kLanes, chain[c]);
  return 2.0 * V::kLanes * kPeakChains * steps;
}
