#include "cops.h"

#include "cops_sample.h"
#include "cops_walk.h"

namespace fbconv {
namespace {

using namespace cops;

constexpr int64_t kSmall = int64_t{1} << 15;  // fewer undecided weights are searched exactly
constexpr double kMargin = 3, kWidestMargin = 12;

// A search of the sample and one of what it leaves undecided then cost about the same.
int64_t sample_size(int64_t size) {
  const double root = std::cbrt(static_cast<double>(size));
  return static_cast<int64_t>(2 * root * root);
}

struct Norm {
  double sum = 0;
  int64_t not_finite = 0;
};

template <typename T>
Norm norm_of(const T* values, int64_t size, const Parallel& parallel) {
  std::vector<Norm> chunks(chunks_of(size));
  for_each_chunk(size, parallel, [&](int64_t chunk, int64_t begin, int64_t end) {
    constexpr int kLanes = 4;
    double sums[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int k = 0; k < kLanes; ++k) sums[k] += std::abs(static_cast<double>(values[i + k]));
    }
    for (; i < end; ++i) sums[0] += std::abs(static_cast<double>(values[i]));
    Norm& norm = chunks[chunk];
    norm.sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    if (std::isfinite(norm.sum)) return;
    for (i = begin; i < end; ++i) norm.not_finite += !std::isfinite(values[i]);
  });
  Norm total;
  for (const Norm& chunk : chunks) {
    total.sum += chunk.sum;
    total.not_finite += chunk.not_finite;
  }
  return total;
}

CopsSolution empty_solution(double target, double control, double kappa) {
  CopsSolution s{};
  s.feasible = control <= kappa;
  s.dual = s.target_plus = s.target_minus = target;
  s.control_plus = s.control_minus = control;
  return s;
}

// The lowest control score of any mask: the selection at multiplier infinity.
template <typename A, typename B>
double control_min(const Items<A, B>& items, int64_t keep, const Parallel& parallel) {
  const Mix mix = mix_at(kInfinity, 1);
  Undecided<A, B> undecided(items, {keep, 0, 0, 0}, nullptr, parallel);
  Buffer<double> scratch;
  Sample<A, B> sample;
  for (double margin = kMargin; margin <= kWidestMargin && undecided.items().size > kSmall;
       margin *= 2) {
    draw(undecided.items(), sample_size(undecided.items().size), 0, &sample);
    const Ranks ranks = ranks_in(sample.ratio, undecided.rest().keep, margin);
    const Cut cut = cut_at(sample.items, mix, mix, ranks.below, ranks.above, &scratch);
    if (!undecided.propose(mix, mix, cut)) continue;
    undecided.accept();
    break;
  }
  return select(undecided.items(), undecided.rest(), kInfinity, 1, &scratch).control;
}

}  // namespace

template <typename A, typename B>
CopsScale cops_scale(const A* target, const B* control, int64_t size, int64_t keep,
                     const Parallel& parallel) {
  const Norm a = norm_of(target, size, parallel), b = norm_of(control, size, parallel);
  const double ratio = a.sum / b.sum;
  const bool comparable = ratio > 0 && std::isfinite(ratio);
  CopsScale scale{a.sum, b.sum, a.not_finite, b.not_finite, 0, comparable ? ratio : 1};
  if (a.not_finite + b.not_finite == 0 && keep > 0) {
    scale.control_min = control_min(Items<A, B>{target, control, nullptr, size}, keep, parallel);
  }
  return scale;
}

template <typename A, typename B>
CopsSolution cops_solve(const CopsProblem<A, B>& p, uint8_t* mask, const Parallel& parallel) {
  if (p.keep == 0) {
    std::fill(mask, mask + p.size, uint8_t{0});
    return empty_solution(p.target_base, p.control_base, p.kappa);
  }
  const Items<A, B> all{p.target, p.control, nullptr, p.size};
  const Rest rest{p.keep, 0, p.target_base, p.control_base};
  Search<A, B> search(all, rest, p.kappa, p.scale, mask, parallel);
  Sample<A, B> sample;
  uint64_t seed = 0;
  double margin = kMargin;
  while (margin <= kWidestMargin && search.is_open() && search.items().size > kSmall) {
    draw(search.items(), sample_size(search.items().size), seed++, &sample);
    const Guess g = guess(sample, search, margin);
    if (!search.adopt(g.low, g.high, g.cut)) margin *= 2;
  }
  CopsSolution solution{};
  if (search.narrow() == Outcome::kInfeasible) {
    solution.control_plus = search.high().control;
  } else {
    solution = walk_to_feasible(&search, p.kappa, mask);
  }
  solution.steps = search.steps();
  return solution;
}

#define FBCONV_COPS(A, B)                                                               \
  template CopsScale cops_scale(const A*, const B*, int64_t, int64_t, const Parallel&); \
  template CopsSolution cops_solve(const CopsProblem<A, B>&, uint8_t*, const Parallel&);
FBCONV_COPS(float, float)
FBCONV_COPS(float, double)
FBCONV_COPS(double, float)
FBCONV_COPS(double, double)
#undef FBCONV_COPS

}  // namespace fbconv
