// The end of a search: neighbouring masks on the way from low's selection to high's.
#pragma once

#include "cops.h"
#include "cops_search.h"

namespace fbconv::cops {

struct Swapped {
  int64_t weight = -1;  // -1: nothing leaves, or nothing enters
  double target = 0, control = 0;
};

// Weights leave and enter one at a time, or one for one, so that each step lowers the control
// score: highest of the leaving and lowest of the entering first, then by index.
struct Walk {
  std::vector<Swapped> leaving, entering;

  template <typename A, typename B>
  explicit Walk(const Search<A, B>& search) {
    const Items<A, B>& items = search.items();
    search.for_each_difference([&](int64_t i, bool enters) {
      (enters ? entering : leaving).push_back({items.weight(i), items.target[i], items.control[i]});
    });
    std::stable_sort(leaving.begin(), leaving.end(),
                     [](const Swapped& x, const Swapped& y) { return x.control > y.control; });
    std::stable_sort(entering.begin(), entering.end(),
                     [](const Swapped& x, const Swapped& y) { return x.control < y.control; });
    const size_t steps = std::max(leaving.size(), entering.size());
    leaving.resize(steps);
    entering.resize(steps);
  }
};

// Goes on to the first mask that meets the constraint; between it and the one before lies the LP
// optimum, and the multiplier is where the two have the same mixed score.
template <typename A, typename B>
CopsSolution walk_to_feasible(Search<A, B>* search, double kappa, uint8_t* mask) {
  const Walk walk(*search);
  const Selection &low = search->low(), &high = search->high();
  search->undecided().finish(low);
  // Ends that select the same have sums that differ in rounding only.
  const Selection& first = walk.leaving.empty() ? high : low;
  CopsSolution s{};
  s.kept = low.count;
  s.target_plus = s.target_minus = first.target;
  s.control_plus = s.control_minus = first.control;
  for (size_t k = 0; k < walk.leaving.size() && s.control_plus > kappa; ++k) {
    const Swapped &out = walk.leaving[k], &in = walk.entering[k];
    if (out.weight >= 0) mask[out.weight] = 0;
    if (in.weight >= 0) mask[in.weight] = 1;
    s.kept += (in.weight >= 0 ? 1 : 0) - (out.weight >= 0 ? 1 : 0);
    s.target_minus = s.target_plus;
    s.control_minus = s.control_plus;
    const bool last = k + 1 == walk.leaving.size();
    s.target_plus = last ? high.target : s.target_plus + (in.target - out.target);
    s.control_plus = last ? high.control : s.control_plus + (in.control - out.control);
    const double crossing = (in.target - out.target) / (out.control - in.control);
    s.multiplier = std::clamp(crossing, low.multiplier, high.multiplier);
  }
  if (s.control_plus == kappa) {
    s.target_minus = s.target_plus;
    s.control_minus = s.control_plus;
  }
  s.feasible = s.control_plus <= kappa;
  s.dual = s.target_plus;
  if (s.multiplier > 0) s.dual += s.multiplier * (s.control_plus - kappa);
  return s;
}

}  // namespace fbconv::cops
