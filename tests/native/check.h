// Assertions of the native tests: a failed one is printed and counted, and main returns the
// verdict.
#pragma once

#include <cstdint>
#include <iostream>
#include <string>

namespace fbconv::test {

constexpr int kSkipped = 77;  // the exit code that CMakeLists.txt declares as "skipped" to CTest

struct Tally {
  int64_t checks = 0, failures = 0;
};

inline Tally& tally() {
  static Tally own;
  return own;
}

inline void report(bool passed, const char* file, int line, const std::string& message) {
  ++tally().checks;
  if (passed) return;
  constexpr int64_t kShown = 20;
  if (++tally().failures <= kShown) std::cerr << file << ":" << line << ": " << message << "\n";
}

// Fails when nothing was checked: a test that tests nothing must not pass.
inline int verdict() {
  std::cout << tally().checks << " checks, " << tally().failures << " failures\n";
  return tally().failures == 0 && tally().checks > 0 ? 0 : 1;
}

}  // namespace fbconv::test

#define CHECK(condition, message) \
  ::fbconv::test::report((condition), __FILE__, __LINE__, std::string(#condition ": ") + (message))
