// Deciding weights over a whole bracket of multipliers [low, high].
//
// Up to positive factors a weight's mixed score within the bracket is a convex combination of those
// at its ends; let L be the lower and U the higher of the two.  The keep-th lowest mixed score then
// always lies between the keep-th lowest L and the keep-th lowest U, so that a weight is in every
// selection if U is below the first of them (and below 0), and in none if L is above the second (or
// not below 0).  Any cut that leaves room for these two thresholds does: it may be guessed and
// verified by counting.
#pragma once

#include "cops_items.h"

namespace fbconv::cops {

struct Cut {
  double in,
      out;  // U < in: decided in.  L > out: decided out.  in <= 0, out < 0; in <= out unless 0
};

enum Code : uint8_t { kOut = 0, kIn = 1, kOpen = 2 };

struct Census {
  int64_t in = 0, open = 0;        // decided in, undecided
  int64_t lower_below = 0;         // L < cut.in
  int64_t upper_within = 0;        // U <= cut.out
  double target = 0, control = 0;  // sums of those decided in

  bool verifies(const Cut& cut, int64_t keep) const {
    // Where no more than `keep` scores are negative, 0 is the threshold.
    const bool in_is_low = cut.in == 0 ? lower_below <= keep : lower_below < keep;
    return in_is_low && (cut.out == kBelowZero || upper_within >= keep);
  }
  void add(const Census& other) {
    in += other.in;
    open += other.open;
    lower_below += other.lower_below;
    upper_within += other.upper_within;
    target += other.target;
    control += other.control;
  }
};

constexpr int64_t kChunk = int64_t{1} << 16;  // fixed: sums must not depend on the threads

inline int64_t chunks_of(int64_t size) { return (size + kChunk - 1) / kChunk; }

// Calls body(chunk, begin, end) for each chunk, from several threads where that pays.
template <typename F>
void for_each_chunk(int64_t size, const Parallel& parallel, const F& body) {
  constexpr int64_t kWorthThreads = 8;
  const int64_t chunks = chunks_of(size);
  const auto run = [&](int64_t chunk) {
    body(chunk, chunk * kChunk, std::min((chunk + 1) * kChunk, size));
  };
  if (chunks >= kWorthThreads) {
    parallel.for_each(chunks, run);
  } else {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) run(chunk);
  }
}

// An even number of items.
template <typename A, typename B>
Census classify_pairs(const Items<A, B>& items, int64_t begin, int64_t end, const Mix& low,
                      const Mix& high, const Cut& cut, uint8_t* codes) {
  Longs in{}, out{}, below{}, beyond{};
  Doubles target{}, control{};
  for (int64_t i = begin; i < end; i += 2) {
    const Doubles a = load(items.target + i), b = load(items.control + i);
    const Doubles v = mixed(a, b, low), w = mixed(a, b, high);
    const Longs v_in = v<cut.in, w_in = w<cut.in, v_out = v> cut.out, w_out = w> cut.out;
    const Longs is_in = v_in & w_in, is_out = v_out & w_out;
    in -= is_in;
    out -= is_out;
    below -= v_in | w_in;
    beyond -= v_out | w_out;
    target += where(is_in, a);
    control += where(is_in, b);
    const Longs code = int64_t{kOpen} + is_in + 2 * is_out;
    codes[i] = static_cast<uint8_t>(code[0]);
    codes[i + 1] = static_cast<uint8_t>(code[1]);
  }
  const int64_t size = end - begin;
  return {sum(in),     size - sum(in) - sum(out), sum(below), size - sum(beyond), sum(target),
          sum(control)};
}

// The last of an odd number of items, paired with one that is never selected.
template <typename A, typename B>
Census classify_last(const Items<A, B>& items, const Mix& low, const Mix& high, const Cut& cut,
                     uint8_t* codes) {
  const int64_t last = items.size - 1;
  const A target[2] = {items.target[last], 0};
  const B control[2] = {items.control[last], 0};
  uint8_t pair[2];
  const Items<A, B> two{target, control, nullptr, 2};
  const Census census = classify_pairs(two, 0, 2, low, high, cut, pair);
  codes[last] = pair[0];
  return census;
}

template <typename A, typename B>
Census classify(const Items<A, B>& items, const Mix& low, const Mix& high, const Cut& cut,
                uint8_t* codes, std::vector<Census>* chunks, const Parallel& parallel) {
  chunks->assign(chunks_of(items.size), Census{});
  for_each_chunk(items.size, parallel, [&](int64_t chunk, int64_t begin, int64_t end) {
    const int64_t even = end - (end - begin) % 2;
    Census census = classify_pairs(items, begin, even, low, high, cut, codes);
    if (even < end) census.add(classify_last(items, low, high, cut, codes));
    (*chunks)[chunk] = census;
  });
  Census census;
  for (const Census& chunk : *chunks) census.add(chunk);
  return census;
}

// Which of eight bytes the lowest set bit lies in.
inline int position(uint64_t bits) {
  const int bit = __builtin_ctzll(bits) / 8;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  return 7 - bit;
#else
  return bit;
#endif
}

// Calls f(i) for each undecided item of [begin, end), eight codes at a time.
template <typename F>
void for_each_open(const uint8_t* codes, int64_t begin, int64_t end, const F& f) {
  constexpr uint64_t kEachOpen = 0x0101010101010101u * kOpen;
  int64_t i = begin;
  for (; i + 8 <= end; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, codes + i, 8);
    for (uint64_t left = eight & kEachOpen; left != 0; left &= left - 1) f(i + position(left));
  }
  for (; i < end; ++i) {
    if (codes[i] == kOpen) f(i);
  }
}

// Copies the undecided items.
template <typename A, typename B>
Items<A, B> compact(const Items<A, B>& items, const uint8_t* codes,
                    const std::vector<Census>& chunks, OwnedItems<A, B>* out,
                    const Parallel& parallel) {
  std::vector<int64_t> start(chunks.size() + 1, 0);
  for (size_t c = 0; c < chunks.size(); ++c) {
    start[c + 1] = start[c] + chunks[c].open;
  }
  out->reserve(start.back());
  for_each_chunk(items.size, parallel, [&](int64_t chunk, int64_t begin, int64_t end) {
    int64_t to = start[chunk];
    for_each_open(codes, begin, end, [&](int64_t i) {
      out->target.data()[to] = items.target[i];
      out->control.data()[to] = items.control[i];
      out->index.data()[to++] = static_cast<uint32_t>(items.weight(i));
    });
  });
  return {out->target.data(), out->control.data(), out->index.data(), start.back()};
}

// The rank-th lowest L (or U), at most 0.
template <typename A, typename B>
double order_of_ends(const Items<A, B>& items, const Mix& low, const Mix& high, int64_t rank,
                     bool upper, Buffer<double>* scratch) {
  double* values = scratch->reserve(2 * items.size + 1);
  int64_t negative = 0;
  for (int64_t i = 0; i < items.size; ++i) {
    const double v = items.value(i, low), w = items.value(i, high);
    values[negative] = upper ? std::max(v, w) : std::min(v, w);
    negative += values[negative] < 0;
  }
  return threshold_of(values, negative, rank);
}

// Exact for this bracket where both ranks are `keep`.
template <typename A, typename B>
Cut cut_at(const Items<A, B>& items, const Mix& low, const Mix& high, int64_t in_rank,
           int64_t out_rank, Buffer<double>* scratch) {
  const bool none_in = in_rank < 1;
  const double in = none_in ? -kInfinity : order_of_ends(items, low, high, in_rank, false, scratch);
  const double out = order_of_ends(items, low, high, out_rank, true, scratch);
  return {in, std::min(out, kBelowZero)};
}

// The undecided items of a problem, and the mask that takes the decided ones.
template <typename A, typename B>
class Undecided {
 public:
  // mask: null, or one byte for each item, which this class uses as it likes until finish().
  Undecided(const Items<A, B>& items, const Rest& rest, uint8_t* mask, const Parallel& parallel)
      : items_(items), rest_(rest), mask_(mask), parallel_(parallel) {}

  const Items<A, B>& items() const { return items_; }
  const Rest& rest() const { return rest_; }

  // Decides what the cut decides, for the time being: false if counting refutes the cut, or if it
  // leaves too much undecided to be worth a copy.
  bool propose(const Mix& low, const Mix& high, const Cut& cut) {
    constexpr double kWorthwhile = .75;
    uint8_t* codes =
        items_.index == nullptr && mask_ != nullptr ? mask_ : codes_.reserve(items_.size);
    const Census census = classify(items_, low, high, cut, codes, &chunks_, parallel_);
    if (!census.verifies(cut, rest_.keep)) return false;
    if (static_cast<double>(census.open) > kWorthwhile * static_cast<double>(items_.size))
      return false;
    proposed_ = compact(items_, codes, chunks_, &owned_[spare_], parallel_);
    proposed_rest_ = {rest_.keep - census.in, rest_.count + census.in, rest_.target + census.target,
                      rest_.control + census.control};
    return true;
  }
  const Items<A, B>& proposed() const { return proposed_; }
  const Rest& proposed_rest() const { return proposed_rest_; }

  void accept() {
    if (mask_ != nullptr && items_.index != nullptr) {
      for (int64_t i = 0; i < items_.size; ++i) mask_[items_.index[i]] = codes_.data()[i];
    }
    items_ = proposed_;
    rest_ = proposed_rest_;
    spare_ = 1 - spare_;
  }

  // Decides the rest.
  void finish(const Selection& selection) {
    for (int64_t i = 0; i < items_.size; ++i) {
      const int64_t weight = items_.weight(i);
      mask_[weight] = selection.contains(items_.value(i, selection.mix), weight) ? 1 : 0;
    }
  }

 private:
  Items<A, B> items_, proposed_{};
  Rest rest_, proposed_rest_{};
  uint8_t* mask_;
  const Parallel& parallel_;
  Buffer<uint8_t> codes_;
  OwnedItems<A, B> owned_[2];
  int spare_ = 0;
  std::vector<Census> chunks_;
};

}  // namespace fbconv::cops
