// Every CPU operator on several threads, and several threads that call operators: right, the same
// bits each time, and free of races (for which this runs under the thread sanitizer).
#include <algorithm>
#include <atomic>
#include <thread>

#include "../../csrc/cpu/fingerprint.h"
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

void run_serially(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  for (int64_t task = 0; task < tasks; ++task) body(context, task);
}

PatternView known(const Pattern& pattern, PatternHalf half) {
  PatternView view = pattern.view();
  view.content = fingerprint(view, half);
  return view;
}

// What every pass gives that keeps a plan, all in one.
Dense results_of_plans(const ConvGeometry& g, const Problem& t, const Pattern& pattern,
                       const Dense& values, const Dense& basis) {
  const CpuEngine engine{{1, run_serially}};
  const PatternView rows = known(pattern, PatternHalf::kForward);
  const PatternView channels = known(pattern, PatternHalf::kTransposed);
  const BasisLayout bases{1, 9, false};
  const std::vector<float> v = cast<float>(values), f = cast<float>(basis);
  const Map<float> input(input_shape(g), Layout::kContiguous, t.input);
  const Map<float> grad(output_shape(g), Layout::kContiguous, t.grad);
  std::vector<Map<float>> outputs(3, {output_shape(g), Layout::kContiguous});
  std::vector<Map<float>> inputs(2, {input_shape(g), Layout::kContiguous});
  std::vector<float> dense = unwritten<float>(pattern.mask.size());
  std::vector<std::vector<float>> of_values(2, unwritten<float>(pattern.nnz()));
  std::vector<float> of_basis = unwritten<float>(basis.size());

  engine.sparse_conv2d<float>(g, rows, input.view(), v.data(), nullptr, outputs[0].view());
  engine.sparse_conv2d_grad_input<float>(g, channels, grad.view(), v.data(), inputs[0].view());
  engine.sparse_conv2d_grad_values<float>(g, rows, grad.view(), input.view(), of_values[0].data());
  engine.fb_conv2d<float>(g, bases, MixOrder::kBasisFirst, rows, input.view(), f.data(), v.data(),
                          nullptr, outputs[1].view());
  engine.fb_conv2d<float>(g, bases, MixOrder::kMixFirst, rows, input.view(), f.data(), v.data(),
                          nullptr, outputs[2].view());
  engine.fb_conv2d_grad_input<float>(g, bases, rows, grad.view(), f.data(), v.data(),
                                     inputs[1].view());
  engine.fb_conv2d_grad_values<float>(g, bases, rows, grad.view(), input.view(), f.data(),
                                      of_values[1].data());
  engine.fb_conv2d_grad_basis<float>(g, bases, rows, grad.view(), input.view(), v.data(),
                                     of_basis.data());
  engine.embed<float>(rows, v.data(), nullptr, dense.data());

  Dense all(dense.begin(), dense.end());
  const auto append = [&](const Dense& more) { all.insert(all.end(), more.begin(), more.end()); };
  for (const auto* maps : {&outputs, &inputs}) {
    for (const Map<float>& map : *maps) append(map.dense());
  }
  for (const auto& more : of_values) append(widen(more));
  append(widen(of_basis));
  return all;
}

// Threads that call at once make, find and use the same plans.
void test_calls_at_once() {
  Random random(12);
  for (const double density : {.02, .3}) {
    const ConvGeometry g{3, 8, 12, 12, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1};
    const Problem t(g, random);
    const Pattern pattern = random_pattern(random, 16, 8, 9, density);
    const Dense values = random_dense(random, pattern.nnz()), basis = random_dense(random, 81);
    std::vector<Dense> results(2 * kThreads);
    std::vector<std::thread> threads;
    for (int64_t i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        results[2 * i] = results_of_plans(g, t, pattern, values, basis);
        results[2 * i + 1] = results_of_plans(g, t, pattern, values, basis);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const Dense& result : results) CHECK(result == results[0], "same bits");
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
  test_calls_at_once();
  return verdict();
}
