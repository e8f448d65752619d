// The COPS solver: against all masks and all breakpoints of the dual where these are few, certified
// by duality where they are not, the same with any number of threads, and at the edges.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/core/cops.h"
#include "check.h"

namespace fbconv::test {
namespace {

using Random = std::mt19937_64;
using Scores = std::vector<double>;

void run_serially(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  for (int64_t task = 0; task < tasks; ++task) body(context, task);
}

void run_on_threads(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t task = next++; task < tasks; task = next++) body(context, task);
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

constexpr Parallel kOneThread{1, run_serially}, kThreeThreads{3, run_on_threads};

enum class Kind { kNormal, kHeavyTailed, kIntegers, kSorted, kEqual };
constexpr Kind kKinds[] = {Kind::kNormal, Kind::kHeavyTailed, Kind::kIntegers, Kind::kSorted,
                           Kind::kEqual};

Scores draw(Random& random, Kind kind, int64_t size) {
  std::normal_distribution<double> normal;
  Scores scores(size);
  for (double& score : scores) {
    score = static_cast<float>(normal(random));
    if (kind == Kind::kHeavyTailed) score = static_cast<float>(std::pow(score, 7));
    if (kind == Kind::kIntegers) score = std::round(2 * score);
    if (kind == Kind::kEqual) score = -1;
  }
  if (kind == Kind::kSorted) std::sort(scores.begin(), scores.end());
  return scores;
}

double sum_of_lowest(Scores scores, int64_t keep) {
  std::sort(scores.begin(), scores.end());
  double sum = 0;
  for (int64_t i = 0; i < keep && scores[i] < 0; ++i) sum += scores[i];
  return sum;
}

double dual(const Scores& target, const Scores& control, int64_t keep, double kappa,
            double multiplier) {
  Scores mixed(target.size());
  for (size_t i = 0; i < mixed.size(); ++i) mixed[i] = target[i] + multiplier * control[i];
  return sum_of_lowest(mixed, keep) - (multiplier > 0 ? multiplier * kappa : 0);
}

struct Case {
  Scores target, control;
  int64_t keep;
  double alpha;
  std::string name;
};

struct Solved {
  CopsScale scale;
  CopsSolution solution;
  std::vector<uint8_t> mask;
  double kappa;
};

template <typename A, typename B>
Solved solve_as(const Case& c, const Parallel& parallel) {
  const std::vector<A> target(c.target.begin(), c.target.end());
  const std::vector<B> control(c.control.begin(), c.control.end());
  const int64_t size = static_cast<int64_t>(target.size());
  Solved s;
  s.scale = cops_scale(target.data(), control.data(), size, c.keep, parallel);
  s.kappa = c.alpha * s.scale.control_min;
  s.mask.assign(size, 77);
  const CopsProblem<A, B> problem{target.data(),     control.data(), size, c.keep, s.kappa, 0, 0,
                                  s.scale.multiplier};
  s.solution = cops_solve(problem, s.mask.data(), parallel);
  return s;
}

double magnitude(const Case& c, double multiplier) {
  double sum = 0;
  for (size_t i = 0; i < c.target.size(); ++i) {
    sum += std::abs(c.target[i]) + multiplier * std::abs(c.control[i]);
  }
  return sum;
}

// m+ is what the mask says and meets the constraint; m- misses it or is m+; and between the two
// lies a fractional mask that has the dual value for its target score, so that both are optimal.
void check_certificate(const Case& c, const Solved& s) {
  const CopsSolution& found = s.solution;
  const double rounding = 1e-12 * magnitude(c, found.multiplier);
  double target = 0, control = 0;
  int64_t kept = 0;
  for (size_t i = 0; i < s.mask.size(); ++i) {
    CHECK(s.mask[i] <= 1, c.name);
    if (s.mask[i] == 0) continue;
    target += c.target[i];
    control += c.control[i];
    ++kept;
  }
  CHECK(found.feasible, c.name);
  CHECK(kept == found.kept && kept <= c.keep, c.name);
  CHECK(std::abs(target - found.target_plus) <= rounding, c.name);
  CHECK(std::abs(control - found.control_plus) <= rounding, c.name);
  CHECK(found.control_plus <= s.kappa, c.name);
  CHECK(std::abs(s.scale.control_min - sum_of_lowest(c.control, c.keep)) <= rounding, c.name);
  const double g = dual(c.target, c.control, c.keep, s.kappa, found.multiplier);
  CHECK(std::abs(g - found.dual) <= rounding, c.name + ": dual " + std::to_string(g - found.dual));
  if (found.multiplier == 0 || found.control_minus == found.control_plus) {
    CHECK(std::abs(found.target_plus - found.dual) <= rounding, c.name);
    return;
  }
  CHECK(found.control_minus > s.kappa, c.name);
  const double share = (s.kappa - found.control_plus) / (found.control_minus - found.control_plus);
  const double between = found.target_plus + share * (found.target_minus - found.target_plus);
  CHECK(std::abs(between - found.dual) <= rounding, c.name);
}

// The least target score of all masks that meet the constraint.
double best_of_all_masks(const Case& c, double kappa) {
  double best = 0;
  bool any = false;
  for (uint32_t bits = 0; bits < (1u << c.target.size()); ++bits) {
    double target = 0, control = 0;
    int64_t count = 0;
    for (size_t i = 0; i < c.target.size(); ++i) {
      if ((bits >> i & 1) == 0) continue;
      target += c.target[i];
      control += c.control[i];
      ++count;
    }
    if (count > c.keep || control > kappa) continue;
    best = any ? std::min(best, target) : target;
    any = true;
  }
  return best;
}

// The dual has its maximum at 0 or where two mixed scores, or one and 0, are equal.
double best_of_all_breakpoints(const Case& c, double kappa) {
  double best = dual(c.target, c.control, c.keep, kappa, 0);
  const auto try_at = [&](double multiplier) {
    if (!(multiplier > 0) || !std::isfinite(multiplier)) return;
    best = std::max(best, dual(c.target, c.control, c.keep, kappa, multiplier));
  };
  for (size_t i = 0; i < c.target.size(); ++i) {
    try_at(-c.target[i] / c.control[i]);
    for (size_t j = 0; j < i; ++j) {
      try_at((c.target[i] - c.target[j]) / (c.control[j] - c.control[i]));
    }
  }
  return best;
}

void test_tiny() {
  Random random(1);
  for (int round = 0; round < 3000; ++round) {
    const Kind kind = kKinds[round % 5];
    const int64_t size = 1 + static_cast<int64_t>(random() % 9);
    const double alphas[] = {.05, .5, .9, .999999};
    Case c{draw(random, kind, size), draw(random, kind, size),
           static_cast<int64_t>(random() % (size + 1)), alphas[random() % 4],
           "tiny " + std::to_string(round)};
    const Solved s = solve_as<double, float>(c, kOneThread);
    check_certificate(c, s);
    const double rounding = 1e-12 * magnitude(c, s.solution.multiplier);
    const double best = best_of_all_masks(c, s.kappa);
    CHECK(s.solution.target_minus <= s.solution.dual + rounding, c.name);
    CHECK(s.solution.dual <= best + rounding, c.name);
    CHECK(best <= s.solution.target_plus + rounding, c.name);
    CHECK(std::abs(best_of_all_breakpoints(c, s.kappa) - s.solution.dual) <= rounding, c.name);
  }
}

template <typename A, typename B>
void test_large(const char* types) {
  Random random(2);
  for (const Kind kind : kKinds) {
    for (const double density : {.0005, .01, .5, .95}) {
      const int64_t size = 60'000 + static_cast<int64_t>(random() % 40'001);
      Case c{draw(random, kind, size), draw(random, kind, size),
             static_cast<int64_t>(density * static_cast<double>(size)), .8,
             std::string(types) + " kind " + std::to_string(static_cast<int>(kind)) + " density " +
                 std::to_string(density)};
      if (kind == Kind::kSorted) std::reverse(c.control.begin(), c.control.end());
      check_certificate(c, solve_as<A, B>(c, kOneThread));
    }
  }
}

void test_threads() {
  Random random(3);
  const int64_t size = 700'001;
  const Case c{draw(random, Kind::kHeavyTailed, size), draw(random, Kind::kHeavyTailed, size), 7000,
               .9, "threads"};
  const Solved one = solve_as<float, float>(c, kOneThread);
  check_certificate(c, one);
  for (int round = 0; round < 3; ++round) {
    const Solved other = solve_as<float, float>(c, kThreeThreads);
    CHECK(one.mask == other.mask, "mask");
    CHECK(one.scale.control_min == other.scale.control_min, "scale");
    CHECK(one.scale.target_norm == other.scale.target_norm, "norm");
    CHECK(one.solution.multiplier == other.solution.multiplier, "multiplier");
    CHECK(one.solution.dual == other.solution.dual, "dual");
    CHECK(one.solution.steps == other.solution.steps, "steps");
  }
}

void test_ties_go_to_the_first() {
  const Case c{Scores(50, -2), Scores(50, -1), 20, .5, "ties"};
  const Solved s = solve_as<float, float>(c, kOneThread);
  for (int64_t i = 0; i < 50; ++i) CHECK(s.mask[i] == (i < 20 ? 1 : 0), "the first 20");
}

void test_edges() {
  const Scores target{-3, -2, -1}, control{1, -1, -3};
  std::vector<uint8_t> mask(3, 77);
  const auto solve = [&](int64_t keep, double kappa, double base) {
    return cops_solve(CopsProblem<double, double>{target.data(), control.data(), 3, keep, kappa,
                                                  10 * base, base, 1},
                      mask.data(), kOneThread);
  };
  CopsSolution s = solve(2, -4.5, 0);
  CHECK(!s.feasible && s.control_plus == -4, "the lowest control score is -4");
  s = solve(2, -4, 0);
  CHECK(s.feasible && mask == (std::vector<uint8_t>{0, 1, 1}), "the control's mask");
  s = solve(2, std::numeric_limits<double>::infinity(), 0);
  CHECK(s.multiplier == 0 && mask == (std::vector<uint8_t>{1, 1, 0}), "the target's mask");
  s = solve(0, 0, 0);
  CHECK(s.feasible && s.kept == 0 && mask == std::vector<uint8_t>(3, 0), "no weight");
  s = solve(0, -1, 0);
  CHECK(!s.feasible && s.control_plus == 0, "no weight has no control score");
  // What is in already counts: -4.5 is met with -1.
  s = solve(2, -4.5, -1);
  CHECK(s.feasible && s.control_plus == -5 && s.target_plus == -13, "with a base");
}

void test_not_finite() {
  std::vector<float> target(200'000, -1), control(200'000, -1);
  target[3] = std::numeric_limits<float>::quiet_NaN();
  control[0] = -std::numeric_limits<float>::infinity();
  control[199'999] = std::numeric_limits<float>::infinity();
  const CopsScale s = cops_scale(target.data(), control.data(), 200'000, 10, kThreeThreads);
  CHECK(s.target_not_finite == 1 && s.control_not_finite == 2, "counts");
}

}  // namespace
}  // namespace fbconv::test

int main() {
  using namespace fbconv::test;
  test_tiny();
  test_large<float, float>("float");
  test_large<double, double>("double");
  test_large<float, double>("mixed");
  test_threads();
  test_ties_go_to_the_first();
  test_edges();
  test_not_finite();
  return verdict();
}
