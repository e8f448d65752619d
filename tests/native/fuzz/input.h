// What fuzz targets take an input apart with, and how they say that it broke a promise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace fbconv::fuzz {

class Input {
 public:
  Input(const uint8_t* data, size_t count) : next_(data), end_(data + count) {}

  // Little-endian; what is missing at the end is zero.
  int64_t number(int bytes) {
    int64_t value = 0;
    for (int i = 0; i < bytes && next_ != end_; ++i) value |= int64_t{*next_++} << 8 * i;
    return value;
  }

  // Everything that is left, in memory of just that size: who reads on is found out.
  std::vector<uint8_t> bytes() { return std::vector<uint8_t>(next_, end_); }
  std::vector<int32_t> words() {
    std::vector<int32_t> words((end_ - next_) / sizeof(int32_t));
    for (int32_t& word : words) word = static_cast<int32_t>(number(4));
    return words;
  }

 private:
  const uint8_t* next_;
  const uint8_t* end_;
};

// Fuzzers keep the input of a process that dies.
inline void must(bool promise, const char* what) {
  if (promise) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

}  // namespace fbconv::fuzz
