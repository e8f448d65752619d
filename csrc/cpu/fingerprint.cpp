#include "fingerprint.h"

#include <cstring>

#include "kernels.h"

namespace fbconv {
namespace {

// Folds a 128-bit product: every bit of both factors reaches every bit of the result.
uint64_t mix(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

constexpr uint64_t kKeys[] = {0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb};

struct Digest {
  void (*const add_blocks)(const void*, int64_t, uint64_t*) = kernels<float>().digest;
  uint64_t chains[kDigestWords / 2];

  Digest() {
    for (uint64_t i = 0; i < kDigestWords / 2; ++i) chains[i] = mix(kKeys[0] * (i + 1), kKeys[1]);
  }
  // The last block is filled up with zeros: whoever adds says elsewhere how much there is.
  void add(const void* data, int64_t bytes) {
    constexpr int64_t kBlock = kDigestWords * sizeof(int32_t);
    const int64_t blocks = bytes / kBlock, rest = bytes % kBlock;
    add_blocks(data, blocks, chains);
    if (rest == 0) return;
    char last[kBlock] = {};
    std::memcpy(last, static_cast<const char*>(data) + blocks * kBlock, rest);
    add_blocks(last, 1, chains);
  }
  void add(const int32_t* words, int64_t count) {
    add(static_cast<const void*>(words), sizeof(int32_t) * count);
  }
  uint64_t fold(uint64_t key) const {
    uint64_t sum = key;
    for (const uint64_t chain : chains) sum = mix(sum ^ chain, key);
    return sum;
  }
  Fingerprint print() const { return {fold(kKeys[1]), fold(kKeys[2]) | 1}; }
};

}  // namespace

Fingerprint fingerprint(const PatternView& p, PatternHalf half) {
  int32_t head[5 + kPatternHeader] = {
      static_cast<int32_t>(p.rows), static_cast<int32_t>(p.channels), static_cast<int32_t>(p.taps),
      static_cast<int32_t>(p.nnz), static_cast<int32_t>(half)};
  std::memcpy(head + 5, p.row_ptr - kPatternHeader, sizeof(int32_t) * kPatternHeader);
  Digest digest;
  digest.add(head, 5 + kPatternHeader);
  if (half == PatternHalf::kForward) {
    digest.add(p.row_ptr, p.rows + 1 + p.nnz);  // index follows
  } else {
    digest.add(p.channel_ptr, p.channels + 1 + 2 * p.nnz);  // t_index and t_value follow
  }
  return digest.print();
}

Fingerprint fingerprint(const void* data, int64_t bytes) {
  Digest digest;
  digest.add(&bytes, sizeof(bytes));
  digest.add(data, bytes);
  return digest.print();
}

}  // namespace fbconv
