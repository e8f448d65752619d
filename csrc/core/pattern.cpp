#include "pattern.h"

#include <cstring>

namespace fbconv {
namespace {

// Folds a 128-bit product: every bit of both factors reaches every bit of the result.
uint64_t mix(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Four chains, because one would wait for its own multiplications.
struct Digest {
  uint64_t chain[4] = {0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb,
                       0xd6e8feb86659fd93};

  void add(const int32_t* words, int64_t count) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      uint64_t block[8];
      std::memcpy(block, words + i, sizeof(block));
      for (int c = 0; c < 4; ++c) {
        chain[c] = mix(block[2 * c] ^ chain[c], block[2 * c + 1] ^ 0xa0761d6478bd642f);
      }
    }
    for (; i < count; ++i) {
      chain[0] = mix(chain[0] ^ static_cast<uint32_t>(words[i]), 0xe7037ed1a0b428db);
    }
    chain[1] = mix(chain[1] ^ static_cast<uint64_t>(count), 0x8ebc6af09c88c6e3);
  }
  Fingerprint result() const {
    return {mix(chain[0] ^ 0x589965cc75374cc3, chain[1]) ^ chain[2],
            mix(chain[2] ^ 0x1d8e4e27c47d124f, chain[3]) ^ chain[0] ^ 1};
  }
};

std::string field_error(const char* field, int64_t expected, int64_t got) {
  return std::string("its header says ") + field + " = " + std::to_string(got) + ", expected " +
         std::to_string(expected);
}

std::string header_error(const int32_t* packed, const PatternView& p) {
  const char* names[] = {"magic", "rows", "channels", "taps", "nnz"};
  const int64_t expected[] = {kPatternMagic, p.rows, p.channels, p.taps, p.nnz};
  for (int i = 0; i < 5; ++i) {
    if (packed[i] != expected[i]) return field_error(names[i], expected[i], packed[i]);
  }
  return {};
}

// One compressed list: pointers rise from 0 to nnz, entries rise strictly inside [0, bound).
std::string list_error(const char* what, const int32_t* ptr, int64_t lists, const int32_t* index,
                       int64_t nnz, int64_t bound) {
  if (ptr[0] != 0 || ptr[lists] != nnz) {
    return std::string(what) + " pointers must run from 0 to nnz = " + std::to_string(nnz);
  }
  for (int64_t i = 0; i < lists; ++i) {
    if (ptr[i + 1] < ptr[i] || ptr[i + 1] > nnz) {
      return std::string(what) + " pointers must not fall, they do at " + std::to_string(i + 1);
    }
  }
  for (int64_t i = 0; i < lists; ++i) {
    const int32_t begin = ptr[i], end = ptr[i + 1];
    if (begin == end) continue;
    // In a rising list the ends bound the rest; without an early exit the comparison vectorises.
    int32_t falls = 0;
    for (int32_t k = begin + 1; k < end; ++k) falls |= index[k] <= index[k - 1];
    if (falls != 0 || index[begin] < 0 || index[end - 1] >= bound) {
      return std::string(what) + " indices must rise strictly within [0, " + std::to_string(bound) +
             "), they do not in list " + std::to_string(i);
    }
  }
  return {};
}

}  // namespace

Fingerprint fingerprint(const PatternView& p, PatternHalf half) {
  Digest digest;
  const int32_t shape[] = {static_cast<int32_t>(p.rows), static_cast<int32_t>(p.channels),
                           static_cast<int32_t>(p.taps), static_cast<int32_t>(p.nnz),
                           static_cast<int32_t>(half)};
  digest.add(shape, 5);
  digest.add(p.row_ptr - kPatternHeader, kPatternHeader);
  if (half == PatternHalf::kForward) {
    digest.add(p.row_ptr, p.rows + 1 + p.nnz);  // index follows
  } else {
    digest.add(p.channel_ptr, p.channels + 1 + 2 * p.nnz);  // t_index and t_value follow
  }
  return digest.result();
}

std::string pattern_error(const int32_t* packed, const PatternView& p, PatternHalf half) {
  std::string error = header_error(packed, p);
  if (!error.empty()) return error;
  if (half == PatternHalf::kForward) {
    return list_error("row", p.row_ptr, p.rows, p.index, p.nnz, p.channels * p.taps);
  }
  error = list_error("channel", p.channel_ptr, p.channels, p.t_index, p.nnz, p.rows * p.taps);
  if (!error.empty()) return error;
  int32_t outside = 0;
  for (int64_t k = 0; k < p.nnz; ++k) outside |= p.t_value[k] < 0 || p.t_value[k] >= p.nnz;
  return outside == 0 ? std::string() : "its value numbers must lie in [0, nnz)";
}

}  // namespace fbconv
