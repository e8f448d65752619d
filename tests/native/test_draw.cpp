// Philox and names against published vectors; numbers against checksums that no platform, no
// compiler option and no division of the work may change.
#include <cstring>
#include <string>
#include <vector>

#include "../../csrc/core/draw.h"
#include "../../csrc/core/philox.h"
#include "check.h"

namespace fbconv::test {
namespace {

// Random123's known answers (kat_vectors, philox4x32 10).
void philox_known_answers() {
  const Words4 zeros = philox4x32({0, 0, 0, 0}, 0, 0);
  CHECK((zeros == Words4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}), "zeros");
  const uint32_t full = 0xffffffff;
  const Words4 ones = philox4x32({full, full, full, full}, full, full);
  CHECK((ones == Words4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}), "ones");
  const Words4 pi =
      philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0);
  CHECK((pi == Words4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}), "digits of pi");
}

// The authors' test vectors of 64-bit FNV-1a.
void name_known_answers() {
  CHECK(name_key("") == 0xcbf29ce484222325, "empty");
  CHECK(name_key("a") == 0xaf63dc4c8601ec8c, "a");
  CHECK(name_key("foobar") == 0x85944171f73967e8, "foobar");
}

uint32_t bits_of(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  return bits;
}

uint64_t checksum(const std::vector<float>& numbers) {
  uint64_t sum = 0;
  for (const float number : numbers) sum = sum * 0x100000001B3 + bits_of(number);
  return sum;
}

struct Known {
  Distribution distribution;
  const char* name;
  uint32_t first[4];
  uint64_t sum;
};

constexpr int64_t kCount = 1 << 20;

std::vector<float> whole(const Known& known) {
  std::vector<float> numbers(kCount);
  draw(known.distribution, 7, name_key("conv1"), 1.0f, 0, kCount, numbers.data());
  return numbers;
}

void numbers_known_answers(const Known& known) {
  const std::vector<float> numbers = whole(known);
  for (int i = 0; i < 4; ++i) {
    CHECK(bits_of(numbers[i]) == known.first[i],
          std::string(known.name) + ": " + std::to_string(bits_of(numbers[i])));
  }
  CHECK(checksum(numbers) == known.sum,
        std::string(known.name) + ": " + std::to_string(checksum(numbers)));
}

void parts_are_the_whole(const Known& known) {
  const std::vector<float> numbers = whole(known);
  for (const int64_t first : {int64_t{0}, int64_t{4}, int64_t{4096}, kCount - 8}) {
    for (const int64_t count : {0, 1, 3, 4, 5, 8}) {
      std::vector<float> part(count + 1, 0.5f);
      draw(known.distribution, 7, name_key("conv1"), 1.0f, first, count, part.data());
      const bool same =
          std::memcmp(part.data(), numbers.data() + first, count * sizeof(float)) == 0;
      CHECK(same && part[count] == 0.5f, std::string(known.name) + " from " +
                                             std::to_string(first) + ": " + std::to_string(count));
    }
  }
}

int run() {
  philox_known_answers();
  name_known_answers();
  const Known all[] = {
      {Distribution::kUniform,
       "uniform",
       {1064192319, 1055763150, 1060626535, 3169150624},
       1814734894212171314u},
      {Distribution::kSign,
       "sign",
       {3212836864, 3212836864, 3212836864, 1065353216},
       2280476732647538688u},
      {Distribution::kNormal,
       "normal",
       {1072207932, 1058963901, 1065994411, 3171928314},
       8096863426754099346u},
  };
  for (const Known& known : all) {
    numbers_known_answers(known);
    parts_are_the_whole(known);
  }
  return verdict();
}

}  // namespace
}  // namespace fbconv::test

int main() { return fbconv::test::run(); }
