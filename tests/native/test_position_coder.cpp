// The position coder: round trips, sizes against the entropy, and bytes that are no code.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/core/position_coder.h"
#include "check.h"

namespace fbconv::test {
namespace {

using Random = std::mt19937_64;
using Positions = std::vector<int64_t>;
using Bytes = std::vector<uint8_t>;

// `kept` of `size` positions, all choices equally likely.
Positions draw(Random& random, int64_t size, int64_t kept) {
  Positions positions;
  for (int64_t i = 0; i < size; ++i) {
    const int64_t missing = kept - static_cast<int64_t>(positions.size());
    if (static_cast<int64_t>(random() % (size - i)) < missing) positions.push_back(i);
  }
  return positions;
}

double entropy_bits(int64_t size, int64_t kept) {
  return (std::lgamma(size + 1.) - std::lgamma(kept + 1.) - std::lgamma(size - kept + 1.)) /
         std::log(2.);
}

std::string describe(int64_t size, const Positions& positions) {
  return std::to_string(positions.size()) + " of " + std::to_string(size);
}

Bytes encode(const Positions& positions, int64_t size) {
  return encode_positions(positions.data(), positions.size(), size);
}

bool decode(const Bytes& bytes, int64_t size, Positions* positions) {
  return decode_positions(bytes.data(), bytes.size(), size, positions->size(), positions->data());
}

void check_round_trip(int64_t size, const Positions& positions) {
  const Bytes bytes = encode(positions, size);
  Positions decoded(positions.size(), -1);
  CHECK(decode(bytes, size, &decoded), describe(size, positions));
  CHECK(decoded == positions, describe(size, positions));
  const double bound = entropy_bits(size, positions.size());
  // Two bytes to end the code, and rounding of probabilities: far less than a thousandth.
  CHECK(8. * bytes.size() <= 1.001 * bound + 16, describe(size, positions) + ": " +
                                                     std::to_string(bytes.size()) +
                                                     " bytes, bound " + std::to_string(bound / 8));
  CHECK(bytes.empty() || bytes.back() != 0, "no trailing zero");
}

void test_small_masks() {
  for (int64_t size = 0; size <= 12; ++size) {
    for (uint32_t mask = 0; mask < uint32_t{1} << size; ++mask) {
      Positions positions;
      for (int64_t i = 0; i < size; ++i) {
        if (mask >> i & 1) positions.push_back(i);
      }
      check_round_trip(size, positions);
    }
  }
}

void test_random_masks() {
  Random random(1);
  for (const int64_t size : {1, 2, 3, 100, 255, 256, 1000, 4096, 100'000, 400'000}) {
    for (const double density : {0., 1e-4, 1e-3, .01, .1, .3, .5, .7, .9, .999, 1.}) {
      check_round_trip(size, draw(random, size, static_cast<int64_t>(density * size)));
    }
    check_round_trip(size, draw(random, size, 1));
    check_round_trip(size, draw(random, size, size - 1));
  }
}

// All masks cost the same, uneven ones too; these make the longest runs of carries.
void test_uneven_masks() {
  constexpr int64_t kSize = 50'000;
  for (const int64_t kept : {1, 2, 100, 10'000, 25'000, 49'999}) {
    Positions positions(kept);
    std::iota(positions.begin(), positions.end(), 0);
    check_round_trip(kSize, positions);
    std::iota(positions.begin(), positions.end(), kSize - kept);
    check_round_trip(kSize, positions);
    for (int64_t k = 0; k < kept; ++k) positions[k] = k * (kSize / kept);
    check_round_trip(kSize, positions);
  }
}

void check_any_bytes(const Bytes& bytes, int64_t size, int64_t kept) {
  Positions positions(kept, -1);
  const bool accepted = decode(bytes, size, &positions);
  bool rising = true;
  for (int64_t k = 0; k < kept; ++k) {
    rising &= positions[k] >= (k > 0 ? positions[k - 1] + 1 : 0) && positions[k] < size;
  }
  CHECK(rising, describe(size, positions));
  CHECK(accepted == (encode(positions, size) == bytes), describe(size, positions));
}

void test_any_bytes() {
  Random random(2);
  for (int round = 0; round < 3000; ++round) {
    const int64_t size = random() % 300, kept = random() % (size + 1);
    Bytes bytes(random() % 60);
    const int kind = random() % 3;
    for (uint8_t& byte : bytes) byte = kind == 0 ? random() : kind == 1 ? 0xFF : 0;
    check_any_bytes(bytes, size, kept);
  }
}

// A short code of few elements is close to one of every mask, so damage may make another mask; but
// nothing else is taken for this one.
void test_damaged_codes() {
  Random random(3);
  constexpr int64_t kSize = 3000, kKept = 100;
  const Positions positions = draw(random, kSize, kKept);
  const Bytes bytes = encode(positions, kSize);
  std::vector<Bytes> others;
  for (size_t i = 0; i < bytes.size(); ++i) {
    others.emplace_back(bytes.begin(), bytes.begin() + i);
    for (int bit = 0; bit < 8; ++bit) {
      others.push_back(bytes);
      others.back()[i] ^= 1 << bit;
    }
  }
  for (const uint8_t extra : {0, 1, 255}) {
    others.push_back(bytes);
    others.back().push_back(extra);
  }
  for (const Bytes& other : others) {
    check_any_bytes(other, kSize, kKept);
    Positions decoded(kKept);
    CHECK(!decode(other, kSize, &decoded) || decoded != positions, "the code is the only one");
  }
}

}  // namespace
}  // namespace fbconv::test

int main() {
  fbconv::test::test_small_masks();
  fbconv::test::test_random_masks();
  fbconv::test::test_uneven_masks();
  fbconv::test::test_any_bytes();
  fbconv::test::test_damaged_codes();
  return fbconv::test::verdict();
}
