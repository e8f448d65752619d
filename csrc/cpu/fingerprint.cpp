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
  void (*const add)(const int32_t*, int64_t, uint64_t*) = kernels<float>().digest;
  uint64_t chains[kDigestWords / 2];

  Digest() {
    for (uint64_t i = 0; i < kDigestWords / 2; ++i) chains[i] = mix(kKeys[0] * (i + 1), kKeys[1]);
  }
  // The last block is filled up with zeros: whoever adds says elsewhere how many words there are.
  void add_words(const int32_t* words, int64_t count) {
    const int64_t blocks = count / kDigestWords, rest = count % kDigestWords;
    add(words, blocks, chains);
    if (rest == 0) return;
    int32_t last[kDigestWords] = {};
    std::memcpy(last, words + blocks * kDigestWords, sizeof(int32_t) * rest);
    add(last, 1, chains);
  }
  uint64_t fold(uint64_t key) const {
    uint64_t sum = key;
    for (const uint64_t chain : chains) sum = mix(sum ^ chain, key);
    return sum;
  }
};

}  // namespace

Fingerprint fingerprint(const PatternView& p, PatternHalf half) {
  int32_t head[5 + kPatternHeader] = {
      static_cast<int32_t>(p.rows), static_cast<int32_t>(p.channels), static_cast<int32_t>(p.taps),
      static_cast<int32_t>(p.nnz), static_cast<int32_t>(half)};
  std::memcpy(head + 5, p.row_ptr - kPatternHeader, sizeof(int32_t) * kPatternHeader);
  Digest digest;
  digest.add_words(head, 5 + kPatternHeader);
  if (half == PatternHalf::kForward) {
    digest.add_words(p.row_ptr, p.rows + 1 + p.nnz);  // index follows
  } else {
    digest.add_words(p.channel_ptr, p.channels + 1 + 2 * p.nnz);  // t_index and t_value follow
  }
  return {digest.fold(kKeys[1]), digest.fold(kKeys[2]) | 1};
}

}  // namespace fbconv
