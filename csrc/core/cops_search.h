// The bracket [low, high] of multipliers around the dual optimum.
//
// It is narrowed by exact selections until its ends select neighbouring masks, or masks whose
// differences all tie at one multiplier; every selection also decides weights for good.  While many
// weights are undecided, a sample of them guesses how far the bracket can be narrowed at once.
#pragma once

#include <optional>

#include "cops_shrink.h"

namespace fbconv::cops {

// From low's selection to high's.
struct Difference {
  int64_t weights = 0;
  double target_rise = 0, control_fall = 0;
};

enum class Outcome { kBracketed, kUnconstrained, kInfeasible };

template <typename A, typename B>
class Search {
 public:
  Search(const Items<A, B>& items, const Rest& rest, double kappa, double scale, uint8_t* mask,
         const Parallel& parallel)
      : undecided_(items, rest, mask, parallel), kappa_(kappa), scale_(scale) {}

  // Narrows [from, to] until nothing lies between the ends, or high <= low * (1 + tolerance).
  Outcome narrow(double from = 0, double to = kInfinity, double tolerance = 0);
  // Moves an end, deciding what can be decided if both ends hold: false if it did not.
  bool adopt(double low, double high, const Cut& cut);

  // Calls f(item, enters) for each item that only one end selects.
  template <typename F>
  void for_each_difference(const F& f) const;
  bool is_open() const {
    return (!low_ || low_->control > kappa_) && (!high_ || high_->control <= kappa_);
  }
  double from() const { return low_ ? low_->multiplier : 0; }
  double to() const { return high_ ? high_->multiplier : kInfinity; }
  double kappa() const { return kappa_; }
  double scale() const { return scale_; }
  Undecided<A, B>& undecided() { return undecided_; }
  const Rest& rest() const { return undecided_.rest(); }
  const Items<A, B>& items() const { return undecided_.items(); }
  const Selection& low() const { return *low_; }
  const Selection& high() const { return *high_; }
  int64_t steps() const { return steps_; }

 private:
  Selection select_at(double multiplier) {
    ++steps_;
    return select(items(), undecided_.rest(), multiplier, scale_, &scratch_);
  }
  bool is_inside(double multiplier) const {
    return low_->multiplier < multiplier && multiplier < high_->multiplier;
  }
  bool move_end(const Selection& selection);
  double middle() const;
  Difference difference() const;
  double crossing(const Difference& d) const;
  bool ends_tie_at(const Selection& at, const Difference& d) const;

  Undecided<A, B> undecided_;
  double kappa_, scale_;
  std::optional<Selection> low_, high_;
  int64_t steps_ = 0;
  Buffer<double> scratch_;
};

template <typename A, typename B>
Outcome Search<A, B>::narrow(double from, double to, double tolerance) {
  constexpr int64_t kFew = 32;
  if (!low_) low_ = select_at(from);
  if (low_->control <= kappa_) {
    high_ = low_;
    return Outcome::kUnconstrained;
  }
  if (!high_) high_ = select_at(to);
  if (high_->control > kappa_) return Outcome::kInfeasible;
  bool shrinks = true;
  while (high_->multiplier > low_->multiplier * (1 + tolerance)) {
    bool moves = false;
    // Ends with much between them need no look at what lies there.
    if (!shrinks || items().size <= kFew) {
      const Difference d = difference();
      if (d.weights == 0) break;
      const Selection selection = select_at(crossing(d));
      if (ends_tie_at(selection, d)) break;
      moves = move_end(selection);
    }
    const double half = middle();
    if (is_inside(half)) moves = move_end(select_at(half));
    if (!moves) break;
    const int64_t keep = rest().keep;
    const Cut cut = cut_at(items(), low_->mix, high_->mix, keep, keep, &scratch_);
    shrinks = undecided_.propose(low_->mix, high_->mix, cut);
    if (shrinks) undecided_.accept();
  }
  return Outcome::kBracketed;
}

template <typename A, typename B>
bool Search<A, B>::move_end(const Selection& selection) {
  if (!is_inside(selection.multiplier)) return false;
  (selection.control > kappa_ ? low_ : high_) = selection;
  return true;
}

template <typename A, typename B>
double Search<A, B>::middle() const {
  constexpr double kStride = 8;
  const double low = low_->multiplier, high = high_->multiplier;
  if (low == 0) return high == kInfinity ? scale_ : high / kStride;
  if (high == kInfinity) return low * kStride;
  return high > kStride * low ? std::sqrt(low) * std::sqrt(high) : low + (high - low) / 2;
}

template <typename A, typename B>
template <typename F>
void Search<A, B>::for_each_difference(const F& f) const {
  const Items<A, B>& all = items();
  for (int64_t i = 0; i < all.size; ++i) {
    const int64_t weight = all.weight(i);
    const bool before = low_->contains(all.value(i, low_->mix), weight);
    const bool after = high_->contains(all.value(i, high_->mix), weight);
    if (before != after) f(i, after);
  }
}

template <typename A, typename B>
Difference Search<A, B>::difference() const {
  Difference d;
  for_each_difference([&](int64_t i, bool enters) {
    const double sign = enters ? 1 : -1;
    d.target_rise += sign * items().target[i];
    d.control_fall -= sign * items().control[i];
    ++d.weights;
  });
  return d;
}

// Where the linear pieces of g at the two ends cross: g is no higher anywhere.
template <typename A, typename B>
double Search<A, B>::crossing(const Difference& d) const {
  const double multiplier = d.target_rise / d.control_fall;
  if (std::isnan(multiplier)) return middle();
  return std::clamp(multiplier, low_->multiplier, high_->multiplier);
}

// Whether the selections at both ends are as good as this one at its multiplier, so that g has its
// maximum there: all that the three do not share has the score of the threshold, to rounding, and
// the score 0 if one of them has more weights than another.
template <typename A, typename B>
bool Search<A, B>::ends_tie_at(const Selection& at, const Difference& d) const {
  const double rounding =
      std::numeric_limits<double>::epsilon() * (8 + std::sqrt(static_cast<double>(d.weights)));
  const bool swaps_only = at.count == low_->count && at.count == high_->count;
  const Items<A, B>& all = items();
  for (int64_t i = 0; i < all.size; ++i) {
    const int64_t weight = all.weight(i);
    const double value = all.value(i, at.mix);
    const bool in = at.contains(value, weight);
    if (in == low_->contains(all.value(i, low_->mix), weight) &&
        in == high_->contains(all.value(i, high_->mix), weight)) {
      continue;
    }
    const double magnitude =
        std::abs(at.mix.target * all.target[i]) + std::abs(at.mix.control * all.control[i]);
    const double distance = swaps_only ? value - at.threshold : value;
    if (std::abs(distance) > rounding * magnitude) return false;
  }
  return true;
}

template <typename A, typename B>
bool Search<A, B>::adopt(double low, double high, const Cut& cut) {
  if (low_) low = std::max(low, low_->multiplier);
  if (high_) high = std::min(high, high_->multiplier);
  if (!(low < high)) return false;
  if (!undecided_.propose(mix_at(low, scale_), mix_at(high, scale_), cut)) return false;
  const Selection at_low =
      select(undecided_.proposed(), undecided_.proposed_rest(), low, scale_, &scratch_);
  const Selection at_high =
      select(undecided_.proposed(), undecided_.proposed_rest(), high, scale_, &scratch_);
  steps_ += 2;
  const bool below = at_low.control > kappa_, above = at_high.control <= kappa_;
  if (below && above) {
    low_ = at_low;
    high_ = at_high;
  } else if (below) {
    low_ = at_high;
    if (high == kInfinity) high_ = at_high;
  } else {
    high_ = at_low;
    if (low == 0) low_ = at_low;
  }
  const bool useful = (below && above) || !is_open();
  if (useful) undecided_.accept();
  return useful;
}

}  // namespace fbconv::cops
