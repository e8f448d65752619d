#include <algorithm>
#include <vector>

#include "kernels.h"
#include "ops.h"
#include "plan_cache.h"

namespace fbconv {
namespace {

constexpr int64_t kTaskBlocks = 2048;  // of the dense array, worth a task

// Where a pattern's entries lie in the dense array, as bits: scattering to indices takes ten times
// as long as writing the array.
struct Places {
  std::vector<uint16_t> masks;
  std::vector<int64_t> first;  // value of each task

  int64_t bytes() const {
    return static_cast<int64_t>(sizeof(uint16_t) * masks.capacity() +
                                sizeof(int64_t) * first.capacity());
  }
};

int64_t dense_size(const PatternView& p) { return p.rows * p.channels * p.taps; }

void make_places(const PatternView& p, Places* places) {
  const int64_t width = p.channels * p.taps;
  places->masks.assign((dense_size(p) + kMaskBits - 1) / kMaskBits, 0);
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int32_t k = p.row_ptr[row]; k < p.row_ptr[row + 1]; ++k) {
      const int64_t at = row * width + p.index[k];
      places->masks[at / kMaskBits] |= static_cast<uint16_t>(1u << at % kMaskBits);
    }
  }
  int64_t before = 0;
  for (size_t block = 0; block < places->masks.size(); ++block) {
    if (block % kTaskBlocks == 0) places->first.push_back(before);
    before += __builtin_popcount(places->masks[block]);
  }
}

std::shared_ptr<const Places> places_of(const PatternView& p) {
  static PlanCache<Places> cache;
  const PlanKey key{p.content, ConvGeometry{}, 0, 0, 0, p.nnz, 0, 0, 0};
  return cache.get(key, [&](Places* places) { make_places(p, places); });
}

// Calls body(first block, blocks, first value) for the whole blocks of every task, and
// last(block, elements, first value) for what is left at the end.
template <typename Body, typename Last>
void for_blocks(const PatternView& p, const Places& places, const Parallel& parallel,
                const Body& body, const Last& last) {
  const int64_t whole = dense_size(p) / kMaskBits, rest = dense_size(p) % kMaskBits;
  parallel.for_each(static_cast<int64_t>(places.first.size()), [&](int64_t task) {
    const int64_t begin = task * kTaskBlocks;
    body(begin, std::min(kTaskBlocks, whole - begin), places.first[task]);
  });
  if (rest != 0) last(whole, rest, p.nnz - __builtin_popcount(places.masks[whole]));
}

// Calls body(row, its first dense element) for every row.
template <typename Body>
void for_rows(const PatternView& p, const Parallel& parallel, const Body& body) {
  const int64_t width = p.channels * p.taps;
  const int64_t block = std::max<int64_t>(1, kTaskBlocks * kMaskBits / std::max<int64_t>(1, width));
  parallel.for_each((p.rows + block - 1) / block, [&](int64_t task) {
    for (int64_t row = task * block; row < std::min(p.rows, (task + 1) * block); ++row) {
      body(row, row * width);
    }
  });
}

// Few entries are reached faster by their indices than by looking at every block.
bool is_sparse(const PatternView& p) { return p.nnz < dense_size(p) / 8; }

template <typename T>
void embed_rows(const PatternView& p, const T* values, const T* frozen, T* dense,
                const Parallel& parallel) {
  for_rows(p, parallel, [&](int64_t row, int64_t start) {
    const int64_t width = p.channels * p.taps;
    if (frozen != nullptr) {
      std::copy_n(frozen + start, width, dense + start);
    } else {
      std::fill_n(dense + start, width, T(0));
    }
    for (int32_t k = p.row_ptr[row]; k < p.row_ptr[row + 1]; ++k) {
      dense[start + p.index[k]] = values[k];
    }
  });
}

template <typename T>
void embed_blocks(const PatternView& p, const T* values, const T* frozen, T* dense,
                  const Parallel& parallel) {
  const std::shared_ptr<const Places> places = places_of(p);
  const uint16_t* masks = places->masks.data();
  const KernelTable<T>& k = kernels<T>();
  const auto body = [&](int64_t block, int64_t blocks, int64_t value) {
    const int64_t at = block * kMaskBits;
    k.expand(masks + block, blocks, values + value, frozen == nullptr ? nullptr : frozen + at,
             dense + at);
  };
  for_blocks(p, *places, parallel, body, [&](int64_t block, int64_t elements, int64_t value) {
    T whole[kMaskBits] = {};
    if (frozen != nullptr) std::copy_n(frozen + block * kMaskBits, elements, whole);
    k.expand(masks + block, 1, values + value, whole, whole);
    std::copy_n(whole, elements, dense + block * kMaskBits);
  });
}

template <typename T>
void gather_rows(const PatternView& p, const T* dense, T* values, const Parallel& parallel) {
  for_rows(p, parallel, [&](int64_t row, int64_t start) {
    for (int32_t k = p.row_ptr[row]; k < p.row_ptr[row + 1]; ++k) {
      values[k] = dense[start + p.index[k]];
    }
  });
}

template <typename T>
void gather_blocks(const PatternView& p, const T* dense, T* values, const Parallel& parallel) {
  const std::shared_ptr<const Places> places = places_of(p);
  const uint16_t* masks = places->masks.data();
  const KernelTable<T>& k = kernels<T>();
  const auto body = [&](int64_t block, int64_t blocks, int64_t value) {
    k.compress(masks + block, blocks, dense + block * kMaskBits, values + value);
  };
  for_blocks(p, *places, parallel, body, [&](int64_t block, int64_t elements, int64_t value) {
    T whole[kMaskBits] = {};
    std::copy_n(dense + block * kMaskBits, elements, whole);
    k.compress(masks + block, 1, whole, values + value);
  });
}

}  // namespace

template <typename T>
void embed(const PatternView& p, const T* values, const T* frozen, T* dense,
           const Parallel& parallel) {
  (is_sparse(p) ? embed_rows<T> : embed_blocks<T>)(p, values, frozen, dense, parallel);
}

template <typename T>
void gather_values(const PatternView& p, const T* dense, T* values, const Parallel& parallel) {
  (is_sparse(p) ? gather_rows<T> : gather_blocks<T>)(p, dense, values, parallel);
}

#define FBCONV_INSTANTIATE(T)                                                          \
  template void embed<T>(const PatternView&, const T*, const T*, T*, const Parallel&); \
  template void gather_values<T>(const PatternView&, const T*, T*, const Parallel&);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
