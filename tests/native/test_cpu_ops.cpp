// Every CPU operator, serially; skipped where the CPU lacks the instruction set asked for.
#include "cpu_engine.h"

namespace fbconv::test {
namespace {

void run_serially(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  for (int64_t task = 0; task < tasks; ++task) body(context, task);
}

}  // namespace
}  // namespace fbconv::test

int main() {
  using namespace fbconv::test;
  const int unusable = check_capability();
  if (unusable != 0) return unusable;
  const CpuEngine engine{{1, run_serially}};
  check_all<float>(engine);
  check_all<double>(engine);
  test_many_tiles<float>(engine);
  test_large_embedding<float>(engine);
  test_many_tiles<double>(engine);
  test_large_embedding<double>(engine);
  return verdict();
}
