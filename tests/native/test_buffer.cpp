// Scratch memory grows, is aligned, and lies somewhere even while it is empty.
#include "../../csrc/core/buffer.h"
#include "check.h"

namespace fbconv::test {
namespace {

void test_reserve() {
  Buffer<float> buffer;
  CHECK(buffer.reserve(0) != nullptr, "offsets to null are undefined");
  float* few = buffer.reserve(5);
  CHECK(reinterpret_cast<uintptr_t>(few) % 64 == 0, "a cache line");
  few[4] = 7;
  CHECK(buffer.reserve(3) == few && few[4] == 7, "fewer lie where they lay");
  buffer.reserve(500)[499] = 1;
  CHECK(buffer.data()[499] == 1, "more are there");
}

}  // namespace
}  // namespace fbconv::test

int main() {
  fbconv::test::test_reserve();
  return fbconv::test::verdict();
}
