// One case of each kernel, few enough to be run under valgrind, which sees what sanitizers do not:
// results that depend on memory nobody wrote.
#include "../../csrc/core/cops.h"
#include "../../csrc/core/draw.h"
#include "../../csrc/core/position_coder.h"
#include "../../csrc/cpu/fingerprint.h"
#include "cpu_engine.h"

namespace fbconv::test {
namespace {

constexpr Parallel kSerial{1, [](int64_t tasks, void (*body)(void*, int64_t), void* context) {
                             for (int64_t task = 0; task < tasks; ++task) body(context, task);
                           }};

struct SparseCase {
  Case layer;
  double density;
};

// A way through memory each: rows of vectors, taps that are read strided, lanes of images, many
// groups, linear, rows that read the same.
const SparseCase kCases[] = {
    {{"same size", {2, 4, 7, 9, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1}}, .4},
    {{"strided", {2, 3, 9, 8, 4, 3, 3, 2, 2, 1, 1, 1, 1, 1}}, .4},
    {{"batch of 17", {17, 4, 4, 4, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1}}, .4},
    {{"depthwise", {2, 5, 6, 6, 5, 3, 3, 1, 1, 1, 1, 1, 1, 5}}, .4},
    {{"linear", {1, 13, 10, 1, 7, 1, 1, 1, 1, 0, 0, 1, 1, 1}}, .4},
    {{"full", {2, 4, 7, 9, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1}}, 1},
    {{"almost empty", {2, 8, 7, 9, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1}}, .02},
};

template <typename T>
void test_operators() {
  const CpuEngine engine{kSerial};
  Random random(51);
  for (const auto& [c, density] : kCases) {
    const ConvGeometry& g = c.geometry;
    const Problem problem(g, random);
    const Pattern pattern =
        random_pattern(random, g.out_channels, g.group_inputs(), g.taps(), density);
    for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
      check_sparse<T>(engine, problem, pattern, layout, random, c.name);
    }
    check_embedding<T>(engine, pattern, random, c.name);
    for (const NaiveBasis& bases : {NaiveBasis{1, 4, false}, NaiveBasis{g.out_channels, 2, true}}) {
      const Pattern mix =
          random_pattern(random, g.out_channels, g.group_inputs(), bases.elements, density);
      const BasisProblem sides(g, bases, mix, random);
      check_basis_maps<T>(engine, problem, sides, mix, Layout::kContiguous, c.name);
      check_basis_params<T>(engine, problem, sides, mix, Layout::kContiguous, c.name);
    }
  }
}

template <typename T>
void test_peak() {
  const int64_t chains = 16, lanes = kernels<T>().lanes;
  std::vector<T> sums(chains * lanes);
  CHECK(kernels<T>().multiply_adds(sums.data(), T(.5), T(.5), 100) > 0 && sums[0] == 1, "peak");
}

void test_fingerprint() {
  Random random(52);
  const Pattern pattern = random_pattern(random, 8, 8, 9, .5);
  for (const PatternHalf half : {PatternHalf::kForward, PatternHalf::kTransposed}) {
    CHECK(fingerprint(pattern.view(), half) == fingerprint(pattern.view(), half), "known again");
  }
}

void test_draw() {
  for (const Distribution distribution :
       {Distribution::kUniform, Distribution::kSign, Distribution::kNormal}) {
    std::vector<float> numbers(37, 100);
    draw(distribution, 7, name_key("layer"), 1, 4, 37, numbers.data());
    for (const float number : numbers) CHECK(std::fabs(number) < 7, "a number of the stream");
  }
}

void test_positions() {
  const std::vector<int64_t> positions{0, 3, 700, 701};
  const std::vector<uint8_t> code = encode_positions(positions.data(), 4, 1000);
  std::vector<int64_t> decoded(4);
  CHECK(decode_positions(code.data(), code.size(), 1000, 4, decoded.data()), "a code");
  CHECK(decoded == positions, "the positions of the code");
}

// Enough weights for the solver to take a sample and to leave what it has decided behind.
void test_cops() {
  constexpr int64_t kSize = 20'000, kKeep = 2'000;
  Random random(53);
  const std::vector<float> target = cast<float>(random_dense(random, kSize));
  const std::vector<float> control = cast<float>(random_dense(random, kSize));
  const CopsScale scale = cops_scale(target.data(), control.data(), kSize, kKeep, kSerial);
  CHECK(scale.target_not_finite == 0 && scale.control_not_finite == 0, "scale");
  std::vector<uint8_t> mask(kSize, 77);
  const CopsSolution solution = cops_solve(
      CopsProblem<float, float>{target.data(), control.data(), kSize, kKeep, -500., 0, 0, 1},
      mask.data(), kSerial);
  int64_t kept = 0;
  for (const uint8_t bit : mask) kept += bit;
  CHECK(solution.feasible && kept == solution.kept && kept <= kKeep, "a mask");
}

}  // namespace
}  // namespace fbconv::test

int main() {
  using namespace fbconv::test;
  const int unusable = check_capability();
  if (unusable != 0) return unusable;
  test_operators<float>();
  test_operators<double>();
  test_peak<float>();
  test_peak<double>();
  test_fingerprint();
  test_draw();
  test_positions();
  test_cops();
  return verdict();
}
