// Every CPU operator on several threads: right, the same bits each time, and free of races (for
// which this runs under the thread sanitizer).
#include <algorithm>
#include <atomic>
#include <thread>

#include "cpu_engine.h"

namespace fbconv::test {
namespace {

constexpr int64_t kThreads = 3;

// Threads take the next task when they are free, so its thread and order differ from run to run.
void run_on_threads(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t task = next++; task < tasks; task = next++) body(context, task);
  };
  std::vector<std::thread> threads;
  for (int64_t i = 1; i < std::min(tasks, kThreads); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

// Threads come and go in any order, results must not.
void test_deterministic(const CpuEngine& engine) {
  Random random(11);
  const ConvGeometry g{9, 8, 12, 12, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1};
  const Problem t(g, random);
  const Pattern pattern = random_pattern(random, 16, 8, 9, .3);
  const Map<float> input(input_shape(g), Layout::kContiguous, t.input);
  const Map<float> grad(output_shape(g), Layout::kContiguous, t.grad);
  const std::vector<float> values = cast<float>(random_dense(random, pattern.nnz()));
  const std::vector<float> basis = cast<float>(random_dense(random, 81));
  std::vector<float> first;
  for (int round = 0; round < 8; ++round) {
    std::vector<float> sparse = unwritten<float>(pattern.nnz()), coefficients = sparse;
    std::vector<float> elements = unwritten<float>(81);
    engine.sparse_conv2d_grad_values<float>(g, pattern.view(), grad.view(), input.view(),
                                            sparse.data());
    engine.fb_conv2d_grad_values<float>(g, BasisLayout{1, 9, false}, pattern.view(), grad.view(),
                                        input.view(), basis.data(), coefficients.data());
    engine.fb_conv2d_grad_basis<float>(g, BasisLayout{1, 9, false}, pattern.view(), grad.view(),
                                       input.view(), values.data(), elements.data());
    sparse.insert(sparse.end(), coefficients.begin(), coefficients.end());
    sparse.insert(sparse.end(), elements.begin(), elements.end());
    if (round == 0) first = sparse;
    CHECK(std::memcmp(first.data(), sparse.data(), sizeof(float) * first.size()) == 0, "same bits");
  }
}

}  // namespace
}  // namespace fbconv::test

int main() {
  using namespace fbconv::test;
  const int unusable = check_capability();
  if (unusable != 0) return unusable;
  const CpuEngine engine{{kThreads, run_on_threads}};
  check_all<float>(engine);
  test_many_tiles<float>(engine);
  test_large_embedding<float>(engine);
  test_deterministic(engine);
  return verdict();
}
