// pattern_error accepts exactly the well-formed patterns.
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "../../csrc/core/pattern.h"
#include "fixture.h"
#include "well_formed.h"

namespace fbconv::test {
namespace {

Pattern small_pattern(double density) {
  Random random(7);
  return random_pattern(random, 4, 3, 4, density);
}

PatternShape shape_of(const Pattern& p) { return {p.rows, p.channels, p.taps, p.nnz()}; }

std::string error_of(const std::vector<int32_t>& words, const Pattern& p, PatternHalf half) {
  return pattern_error(words.data(),
                       view_pattern(words.data(), p.rows, p.channels, p.taps, p.nnz()), half);
}

void test_layout() {
  const Pattern p = small_pattern(.5);
  const int64_t numel = static_cast<int64_t>(p.packed.size());
  CHECK(pattern_nnz(numel, p.rows, p.channels) == p.nnz(), "word count");
  CHECK(pattern_nnz(numel + 1, p.rows, p.channels) == -1, "one word more");
  CHECK(pattern_nnz(numel - 1, p.rows, p.channels) == -1, "one word less");
  CHECK(pattern_nnz(kPatternHeader, p.rows, p.channels) == -1, "header only");
  CHECK(pattern_nnz(0, p.rows, p.channels) == -1, "no words");
  const PatternView view = p.view();
  CHECK(view.t_value + p.nnz() == p.packed.data() + numel, "the lists end with the words");
}

void test_valid() {
  for (const double density : {0., .1, .5, 1.}) {
    const Pattern p = small_pattern(density);
    for (const PatternHalf half : {PatternHalf::kForward, PatternHalf::kTransposed}) {
      CHECK(is_well_formed(p.packed, shape_of(p), half), "the fixture is well-formed");
      CHECK(error_of(p.packed, p, half).empty(), error_of(p.packed, p, half));
    }
  }
}

// Every word in turn takes values around and far from the right one.
void test_every_word() {
  const Pattern p = small_pattern(.5);
  constexpr int32_t kLowest = std::numeric_limits<int32_t>::min();
  constexpr int32_t kHighest = std::numeric_limits<int32_t>::max();
  int64_t rejected = 0;
  for (size_t i = 0; i < p.packed.size(); ++i) {
    std::vector<int32_t> words = p.packed;
    for (const int32_t value : {p.packed[i] - 1, p.packed[i] + 1, -1, 0, 5, 12, 16,
                                static_cast<int32_t>(p.nnz()), kLowest, kHighest}) {
      words[i] = value;
      for (const PatternHalf half : {PatternHalf::kForward, PatternHalf::kTransposed}) {
        const bool accepted = error_of(words, p, half).empty();
        CHECK(accepted == is_well_formed(words, shape_of(p), half),
              "word " + std::to_string(i) + " = " + std::to_string(value));
        rejected += !accepted;
      }
    }
  }
  CHECK(rejected > 300, "damage is found: " + std::to_string(rejected));
}

struct Damage {
  const char* what;
  int64_t word;
  int32_t value;
  PatternHalf half;
  const char* message;
};

// What the error says, and that a pass does not judge the half it does not read.
void test_messages() {
  const Pattern p = small_pattern(.5);
  const int64_t index = 8 + p.rows + 1, channel_ptr = index + p.nnz();
  const int64_t t_index = channel_ptr + p.channels + 1, t_value = t_index + p.nnz();
  const std::vector<Damage> damages{
      {"magic", 0, 1, PatternHalf::kForward, "magic"},
      {"nnz", 4, 1, PatternHalf::kForward, "nnz = 1, expected"},
      {"row pointers start", 8, 1, PatternHalf::kForward, "row pointers must run from 0"},
      {"row pointers fall", 9, 100, PatternHalf::kForward, "row pointers must not fall"},
      {"negative index", index, -1, PatternHalf::kForward, "row indices must rise strictly"},
      {"index too large", channel_ptr - 1, 12, PatternHalf::kForward, "row indices"},
      {"channel pointers end", t_index - 1, 0, PatternHalf::kTransposed, "channel pointers"},
      {"repeated index", t_index + 1, p.packed[t_index], PatternHalf::kTransposed,
       "channel indices must rise strictly"},
      {"value number", t_value, -1, PatternHalf::kTransposed, "value numbers"},
      {"value number too large", t_value, static_cast<int32_t>(p.nnz()), PatternHalf::kTransposed,
       "value numbers"},
  };
  for (const Damage& damage : damages) {
    std::vector<int32_t> words = p.packed;
    words[damage.word] = damage.value;
    const std::string error = error_of(words, p, damage.half);
    CHECK(error.find(damage.message) != std::string::npos, std::string(damage.what) + ": " + error);
    const bool forward = damage.half == PatternHalf::kForward;
    const PatternHalf other = forward ? PatternHalf::kTransposed : PatternHalf::kForward;
    const bool in_header = damage.word < kPatternHeader;
    CHECK(error_of(words, p, other).empty() == !in_header, damage.what);
  }
}

}  // namespace
}  // namespace fbconv::test

int main() {
  fbconv::test::test_layout();
  fbconv::test::test_valid();
  fbconv::test::test_every_word();
  fbconv::test::test_messages();
  return fbconv::test::verdict();
}
