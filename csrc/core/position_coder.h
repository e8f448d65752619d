// Positions of kept elements at their entropy: log2(size choose kept) bits and a few bytes.
//
// A mask is coded element by element by a binary range coder.  An element is kept with probability
// (kept left) / (elements left), which makes all masks with so many kept elements equally likely,
// so none costs more than another.  Integers only: the same bytes on every machine.
#pragma once

#include <cstdint>
#include <vector>

namespace fbconv {

constexpr int64_t kMaxCodedSize = (int64_t{1} << 31) - 1;

// The code of the mask of `size` <= kMaxCodedSize elements that keeps those at `positions`, which
// rise strictly within [0, size).  It has no trailing zero byte: the reader supplies them.
std::vector<uint8_t> encode_positions(const int64_t* positions, int64_t kept, int64_t size);

// Writes `kept` <= size positions that rise strictly within [0, size), whatever the bytes are;
// false unless the bytes are, to the last one, those that encode_positions makes for these
// positions.
bool decode_positions(const uint8_t* bytes, int64_t count, int64_t size, int64_t kept,
                      int64_t* positions);

}  // namespace fbconv
