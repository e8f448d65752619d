// Fingerprints tell patterns apart, and do so alike on every instruction set.
#include <algorithm>
#include <set>
#include <utility>

#include "../../csrc/cpu/fingerprint.h"
#include "cpu_engine.h"

namespace fbconv::test {
namespace {

constexpr PatternHalf kHalves[] = {PatternHalf::kForward, PatternHalf::kTransposed};

// Nothing but the words counts, so they need not be well-formed.
struct Words {
  int64_t rows = 5, channels = 6, taps = 9, nnz;
  std::vector<int32_t> packed;

  Words(int64_t entries, bool constant, Random& random)
      : nnz(entries), packed(kPatternHeader + rows + 1 + channels + 1 + 3 * entries, 7) {
    if (constant) return;
    for (int32_t& word : packed) word = static_cast<int32_t>(random());
  }
  Fingerprint print(PatternHalf half) const {
    return fingerprint(view_pattern(packed.data(), rows, channels, taps, nnz), half);
  }
};

// Takes fingerprints of contents that all differ.
class Distinct {
 public:
  void add(const Fingerprint& print, const std::string& what) {
    CHECK(print.known(), what);
    CHECK(low_.insert(print.low).second, "low words differ: " + what);
    CHECK(high_.insert(print.high).second, "high words differ: " + what);
  }

 private:
  std::set<uint64_t> low_, high_;
};

// The words that a half's fingerprint depends on.
std::vector<int64_t> words_read(const Words& w, PatternHalf half) {
  const int64_t channel_ptr = kPatternHeader + w.rows + 1 + w.nnz;
  std::vector<int64_t> read;
  for (int64_t i = 0; i < static_cast<int64_t>(w.packed.size()); ++i) {
    if (i < kPatternHeader || (i < channel_ptr) == (half == PatternHalf::kForward)) {
      read.push_back(i);
    }
  }
  return read;
}

void test_one_word(Words w, PatternHalf half, const std::string& what) {
  Distinct distinct;
  distinct.add(w.print(half), what);
  for (const int64_t i : words_read(w, half)) {
    for (int bit = 0; bit < 32; ++bit) {
      const int32_t before = w.packed[i];
      w.packed[i] = static_cast<int32_t>(static_cast<uint32_t>(before) ^ 1u << bit);
      distinct.add(w.print(half), what + ", a bit of word " + std::to_string(i));
      w.packed[i] = before;
    }
  }
}

void test_two_words(Words w, PatternHalf half, const std::string& what) {
  Distinct distinct;
  distinct.add(w.print(half), what);
  const std::vector<int64_t> read = words_read(w, half);
  for (size_t a = 0; a < read.size(); ++a) {
    for (size_t b = a + 1; b < read.size(); ++b) {
      std::swap(w.packed[read[a]], w.packed[read[b]]);
      distinct.add(w.print(half), what + ", two words swapped");
      std::swap(w.packed[read[a]], w.packed[read[b]]);
      ++w.packed[read[a]], --w.packed[read[b]];
      distinct.add(w.print(half), what + ", one more and one less");
      --w.packed[read[a]], ++w.packed[read[b]];
    }
  }
}

void test_shifts(Words w, PatternHalf half, const std::string& what) {
  Distinct distinct;
  const std::vector<int64_t> read = words_read(w, half);
  const auto first = w.packed.begin() + read[kPatternHeader];
  const auto last = w.packed.begin() + read.back() + 1;
  for (auto i = first; i != last; ++i) {
    distinct.add(w.print(half), what + ", words shifted round");
    std::rotate(first, first + 1, last);
  }
}

// One more nought at the end is another number of entries; a half is not the other half.
void test_lengths(Random& random) {
  Distinct distinct;
  for (int64_t entries = 0; entries < 3 * kDigestWords; ++entries) {
    Words w(entries, true, random);
    std::fill(w.packed.begin(), w.packed.end(), 0);
    for (const PatternHalf half : kHalves) {
      distinct.add(w.print(half), std::to_string(entries) + " noughts");
    }
  }
}

void test_only_words_of_the_half_count(Random& random) {
  const Words w(100, false, random);
  for (const PatternHalf half : kHalves) {
    Words other(100, false, random);
    for (const int64_t i : words_read(w, half)) other.packed[i] = w.packed[i];
    CHECK(other.print(half) == w.print(half), "equal words, equal fingerprints");
  }
}

// Arrays from any byte on, one longer than the other by noughts.
void test_arrays() {
  std::vector<char> bytes(1500);
  for (size_t i = 0; i < 600; ++i) bytes[i] = static_cast<char>(i * 37);
  Distinct distinct;
  for (int64_t count = 0; count < 1400; ++count) {
    distinct.add(fingerprint(bytes.data(), count), std::to_string(count) + " bytes");
  }
  const Fingerprint print = fingerprint(bytes.data(), 600);
  std::copy_backward(bytes.begin(), bytes.begin() + 600, bytes.begin() + 601);
  CHECK(fingerprint(bytes.data() + 1, 600) == print, "the address does not count");
}

void test_every_instruction_set_agrees() {
  Random random(5);
  const Fingerprint print = Words(1000, false, random).print(PatternHalf::kTransposed);
  const Fingerprint expected{9853680976708955217u, 12619685700482515263u};
  CHECK(print == expected, std::to_string(print.low) + ", " + std::to_string(print.high));
}

}  // namespace
}  // namespace fbconv::test

int main() {
  using namespace fbconv::test;
  const int unusable = check_capability();
  if (unusable != 0) return unusable;
  Random random(3);
  for (const fbconv::PatternHalf half : kHalves) {
    for (const int64_t entries : {0, 1, 52, 53, 150}) {
      const std::string what = std::to_string(entries) + " entries";
      const Words words(entries, false, random);
      test_one_word(words, half, what);
      test_one_word(Words(entries, true, random), half, what + ", all equal");
      test_two_words(words, half, what);
      test_shifts(words, half, what);
    }
  }
  test_lengths(random);
  test_only_words_of_the_half_count(random);
  test_arrays();
  test_every_instruction_set_agrees();
  return verdict();
}
