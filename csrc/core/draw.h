// Random weights that a 32-bit seed stands for: element i of layer "name" is a function of
// (seed, name, i) alone, so any part can be drawn by any thread, and the seed is all that a file
// has to hold.
//
// The bits are the same on every platform: integers, and IEEE 754's +, -, *, / and square root,
// each of which the standard rounds correctly.  No libm, and no fused multiply-add: whoever
// compiles draw.cpp has to forbid contraction (-ffp-contract=off).
#pragma once

#include <cstdint>
#include <string>

namespace fbconv {

enum class Distribution {
  kUniform,  // on (-1, 1), the odd multiples of 2^-24
  kSign,     // -1 or 1
  kNormal,   // mean 0, variance 1, within about 6.3
};

// The key that a name stands for: 64-bit FNV-1a.
uint64_t name_key(const std::string& name);

// out[k] = scale * (number first + k of the stream (seed, key)), in one rounding to float32 of the
// number and one of the product; first is a multiple of 4.
void draw(Distribution distribution, uint32_t seed, uint64_t key, float scale, int64_t first,
          int64_t count, float* out);

}  // namespace fbconv
