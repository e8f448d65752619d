// Guesses from a sample of the undecided weights.  Nothing depends on their being right: counting
// and exact selections verify them.
#pragma once

#include "cops_search.h"

namespace fbconv::cops {

inline void run_serially(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  for (int64_t task = 0; task < tasks; ++task) body(context, task);
}
constexpr Parallel kSerial{1, run_serially};

template <typename A, typename B>
struct Sample {
  OwnedItems<A, B> storage;
  Items<A, B> items;
  double ratio;  // of its size to that of what it was drawn from
};

// One item from each of `count` equal strata.
template <typename A, typename B>
void draw(const Items<A, B>& from, int64_t count, uint64_t seed, Sample<A, B>* sample) {
  sample->storage.reserve(count);
  sample->items = {sample->storage.target.data(), sample->storage.control.data(), nullptr, count};
  sample->ratio = static_cast<double>(count) / static_cast<double>(from.size);
  const double width = 1 / sample->ratio;
  for (int64_t k = 0; k < count; ++k) {
    // splitmix64
    uint64_t z = (seed * static_cast<uint64_t>(count) + k + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    const double uniform = static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
    const int64_t i = static_cast<int64_t>((static_cast<double>(k) + uniform) * width);
    sample->storage.target.data()[k] = from.target[std::min(i, from.size - 1)];
    sample->storage.control.data()[k] = from.control[std::min(i, from.size - 1)];
  }
}

// Ranks that `keep` of the population have in the sample, `margin` standard deviations apart.
struct Ranks {
  int64_t keep, below, above;
};

inline Ranks ranks_in(double ratio, int64_t keep, double margin) {
  const double mean = static_cast<double>(keep) * ratio;
  const double reach = margin * (std::sqrt(mean) + 1);
  return {std::max<int64_t>(1, std::llround(mean)), static_cast<int64_t>(mean - reach),
          static_cast<int64_t>(mean + reach) + 1};
}

// Standard deviation of the selection's control score over samples.
template <typename A, typename B>
double spread_of_control(const Items<A, B>& items, const Selection& selection) {
  double squares = 0;
  for (int64_t i = 0; i < items.size; ++i) {
    const double b = items.control[i];
    if (selection.contains(items.value(i, selection.mix), i)) squares += b * b;
  }
  return std::sqrt(squares);
}

struct Guess {
  double low, high;
  Cut cut;
};

// The part of a search's bracket between the sample's own optima for a looser and a tighter kappa.
template <typename A, typename B>
Guess guess(const Sample<A, B>& sample, const Search<A, B>& search, double margin) {
  constexpr double kTolerance = .01;
  Buffer<double> scratch;
  const double scale = search.scale();
  const Ranks ranks = ranks_in(sample.ratio, search.rest().keep, margin);
  const Rest rest{ranks.keep, 0, 0, 0};
  const Selection tight = select(sample.items, rest, search.to(), scale, &scratch);
  const double slack = margin * spread_of_control(sample.items, tight);
  const double kappa = (search.kappa() - search.rest().control) * sample.ratio;
  Search<A, B> looser(sample.items, rest, kappa + slack, scale, nullptr, kSerial);
  looser.narrow(search.from(), search.to(), kTolerance);
  const double low = looser.low().multiplier;
  Search<A, B> tighter(sample.items, rest, kappa - slack, scale, nullptr, kSerial);
  const Outcome outcome = tighter.narrow(low, search.to(), kTolerance);
  const double high = outcome == Outcome::kInfeasible ? search.to() : tighter.high().multiplier;
  return {low, high,
          cut_at(sample.items, mix_at(low, scale), mix_at(high, scale), ranks.below, ranks.above,
                 &scratch)};
}

}  // namespace fbconv::cops
