#include "draw.h"

#include <algorithm>
#include <cmath>

#include "philox.h"

namespace fbconv {
namespace {

// The second half of Philox's key: another number, or another way to turn words into numbers, is
// another generator.
constexpr uint32_t kVersion = 1;

// Logarithm of k / 2^33 for 0 < k < 2^33, to about 10^-10: the mantissa's by the series of artanh.
double log_of_fraction(uint64_t k) {
  constexpr double kLog2 = 0.693147180559945309;
  int exponent = -33;
  double mantissa = static_cast<double>(k);  // exact: 33 bits
  while (mantissa >= 1.5) {
    mantissa *= 0.5;
    ++exponent;
  }
  const double s = (mantissa - 1) / (mantissa + 1), t = s * s;
  const double series =
      1 + t * (1 / 3.0 + t * (1 / 5.0 + t * (1 / 7.0 + t * (1 / 9.0 + t * (1 / 11.0 + t / 13)))));
  return 2 * s * series + exponent * kLog2;
}

// The normal quantile of (x + 1/2) / 2^32, to about 10^-7 of its value.
// Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied
// Statistics 37, 1988: PPND7.
float normal(uint32_t x) {
  const double q = ((2.0 * x + 1) - 4294967296.0) / 8589934592.0;  // exact: distance from 1/2
  if (q >= -0.425 && q <= 0.425) {
    const double r = 0.180625 - q * q;
    return static_cast<float>(
        q * (((59.109374720 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179) /
        (((67.187563600 * r + 78.757757664) * r + 17.895169469) * r + 1));
  }
  const uint64_t tail = 2 * static_cast<uint64_t>(q < 0 ? x : ~x) + 1;
  const double r = std::sqrt(-log_of_fraction(tail)) - 1.6;  // below 4.8: AS 241's middle range
  const double z = (((0.17023821103 * r + 1.3067284816) * r + 2.7568153900) * r + 1.4234372777) /
                   ((0.12021132975 * r + 0.73700164250) * r + 1);
  return static_cast<float>(q < 0 ? -z : z);
}

float uniform(uint32_t x) {
  const int32_t odd = 2 * static_cast<int32_t>(x >> 8) + 1 - (1 << 24);
  return static_cast<float>(odd) * 5.9604644775390625e-8f;  // 2^-24: exact
}

float sign(uint32_t x) { return x >> 31 != 0 ? -1.0f : 1.0f; }

template <float number(uint32_t)>
void fill(uint32_t seed, uint64_t key, float scale, int64_t first, int64_t count, float* out) {
  const auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
  for (int64_t k = 0; k < count; k += 4) {
    const auto block = static_cast<uint64_t>(first + k) / 4;
    const Words4 words =
        philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), low, high},
                   seed, kVersion);
    for (int64_t i = 0; i < std::min<int64_t>(4, count - k); ++i) {
      out[k + i] = scale * number(words[i]);
    }
  }
}

}  // namespace

uint64_t name_key(const std::string& name) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char letter : name) {
    hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001B3;
  }
  return hash;
}

void draw(Distribution distribution, uint32_t seed, uint64_t key, float scale, int64_t first,
          int64_t count, float* out) {
  switch (distribution) {
    case Distribution::kUniform:
      return fill<uniform>(seed, key, scale, first, count, out);
    case Distribution::kSign:
      return fill<sign>(seed, key, scale, first, count, out);
    case Distribution::kNormal:
      return fill<normal>(seed, key, scale, first, count, out);
  }
}

}  // namespace fbconv
