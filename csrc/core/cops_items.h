// The weights that a COPS problem has not decided yet, and the passes over them.
//
// Mixed scores w = s0 + mu s1 are computed in double precision wherever they are needed, and only
// here, so that a weight has the same mixed score in every pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "buffer.h"
#include "parallel.h"

namespace fbconv::cops {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kBelowZero = -std::numeric_limits<double>::denorm_min();

// s0 + mu s1 up to a positive factor, which makes mu = infinity (control alone) an ordinary case.
struct Mix {
  double target, control;
};

// `scale` is the multiplier at which both scores count alike.
inline Mix mix_at(double multiplier, double scale) {
  if (multiplier == kInfinity) return {0, scale};
  const double ratio = multiplier / scale;
  return {1 / (1 + ratio), multiplier / (1 + ratio)};
}

inline double mixed(double a, double b, const Mix& mix) {
#if defined(FP_FAST_FMA) || defined(__aarch64__)
  // Left to itself the compiler may fuse the two in one pass and not in another.
  return std::fma(mix.control, b, mix.target * a);
#else
  return mix.target * a + mix.control * b;
#endif
}

// Two at a time, in vectors of the baseline instruction set.
typedef double Doubles __attribute__((vector_size(16)));
typedef int64_t Longs __attribute__((vector_size(16)));  // comparisons: -1 where true

inline Doubles load(const double* p) { return Doubles{p[0], p[1]}; }
inline Doubles load(const float* p) {
  typedef float Floats __attribute__((vector_size(8)));
  Floats two;
  std::memcpy(&two, p, sizeof(two));
  return __builtin_convertvector(two, Doubles);
}
inline double sum(Doubles x) { return x[0] + x[1]; }
inline int64_t sum(Longs x) { return x[0] + x[1]; }
inline Doubles where(Longs mask, Doubles x) { return (Doubles)((Longs)x & mask); }

inline Doubles mixed(Doubles a, Doubles b, const Mix& mix) {
#if defined(FP_FAST_FMA) || defined(__aarch64__)
  return Doubles{mixed(a[0], b[0], mix), mixed(a[1], b[1], mix)};
#else
  return mix.target * a + mix.control * b;
#endif
}

template <typename A, typename B>
struct Items {
  const A* target;
  const B* control;
  const uint32_t* index;  // null: item i is weight i
  int64_t size;

  int64_t weight(int64_t i) const { return index == nullptr ? i : index[i]; }

  double value(int64_t i, const Mix& mix) const { return mixed(target[i], control[i], mix); }
};

// Items with storage of their own.
template <typename A, typename B>
struct OwnedItems {
  Buffer<A> target;
  Buffer<B> control;
  Buffer<uint32_t> index;

  void reserve(int64_t count) {
    target.reserve(count);
    control.reserve(count);
    index.reserve(count);
  }
};

// How many of the undecided items may still be chosen, and what is chosen already.
struct Rest {
  int64_t keep, count;
  double target, control;
};

// The `keep` lowest negative mixed scores at one multiplier, as a rule that needs no list: below
// the threshold, or equal to it and early enough.
struct Selection {
  double multiplier;
  Mix mix;
  double threshold;
  int64_t last_tie;  // the last weight at the threshold that is in
  double target, control;
  int64_t count;

  bool contains(double value, int64_t weight) const {
    return value < threshold || (value == threshold && weight <= last_tie);
  }
};

// Calls for the k-th lowest of the values (1 <= k <= count) by two of a sample that are likely to
// enclose it: a pass that counts what is below and keeps what is between them costs less than a
// partition, whose every branch is a coin's toss.  Returns NaN if they do not enclose it.
inline double kth_lowest_by_sample(const double* values, int64_t count, int64_t k, double* room) {
  constexpr int64_t kStride = 16;
  const int64_t size = count / kStride, rank = k / kStride;
  const int64_t reach = std::lround(std::sqrt(static_cast<double>(size))) + 1;
  for (int64_t i = 0; i < size; ++i) room[i] = values[i * kStride];
  double low = -kInfinity, high = kInfinity;
  if (rank + reach < size) {
    std::nth_element(room, room + rank + reach, room + size);
    high = room[rank + reach];
  }
  if (rank >= reach) {
    std::nth_element(room, room + rank - reach, room + std::min(rank + reach, size));
    low = room[rank - reach];
  }
  int64_t below = 0, between = 0;
  for (int64_t i = 0; i < count; ++i) {
    room[between] = values[i];
    below += values[i] < low;
    between += values[i] >= low && values[i] <= high;
  }
  const int64_t left = k - below;
  if (left < 1 || left > between) return NAN;
  std::nth_element(room, room + left - 1, room + between);
  return room[left - 1];
}

// The keep-th lowest of these negative values, or 0 if there are no more than `keep`.  Moves them;
// behind them lies room for as many.
inline double threshold_of(double* negative, int64_t count, int64_t keep) {
  constexpr int64_t kFew = 512;
  if (count <= keep) return 0;
  const double guess =
      count > kFew ? kth_lowest_by_sample(negative, count, keep, negative + count) : NAN;
  if (!std::isnan(guess)) return guess;
  std::nth_element(negative, negative + keep - 1, negative + count);
  return negative[keep - 1];
}

struct Sums {
  double target, control;
  int64_t count;
};

template <typename A, typename B>
Sums sums_below(const Items<A, B>& items, const Mix& mix, double threshold) {
  Doubles target{}, control{};
  Longs count{};
  const int64_t even = items.size - items.size % 2;
  for (int64_t i = 0; i < even; i += 2) {
    const Doubles a = load(items.target + i), b = load(items.control + i);
    const Longs in = mixed(a, b, mix) < threshold;
    target += where(in, a);
    control += where(in, b);
    count -= in;
  }
  Sums sums{sum(target), sum(control), sum(count)};
  if (even < items.size && items.value(even, mix) < threshold) {
    sums = {sums.target + items.target[even], sums.control + items.control[even], sums.count + 1};
  }
  return sums;
}

// The selection among these items, its sums and count together with what is chosen already.
template <typename A, typename B>
Selection select(const Items<A, B>& items, const Rest& rest, double multiplier, double scale,
                 Buffer<double>* scratch) {
  const Mix mix = mix_at(multiplier, scale);
  double* values = scratch->reserve(2 * items.size + 1);
  int64_t negative = 0;
  for (int64_t i = 0; i < items.size; ++i) {
    values[negative] = items.value(i, mix);
    negative += values[negative] < 0;
  }
  const double threshold = threshold_of(values, negative, rest.keep);
  Sums sums = sums_below(items, mix, threshold);
  int64_t last_tie = -1;
  const int64_t wanted = std::min(rest.keep, negative);
  for (int64_t i = 0; sums.count < wanted; ++i) {
    if (items.value(i, mix) != threshold) continue;
    sums = {sums.target + items.target[i], sums.control + items.control[i], sums.count + 1};
    last_tie = items.weight(i);
  }
  return {multiplier,
          mix,
          threshold,
          last_tie,
          rest.target + sums.target,
          rest.control + sums.control,
          rest.count + sums.count};
}

}  // namespace fbconv::cops
