#include "passes.h"

#include <algorithm>

#include "tile_io.h"

namespace fbconv {
namespace {

template <typename T>
struct Scratch {
  Buffer<T> source, grad, inner, out;
};

template <typename T>
Scratch<T>& scratch() {
  thread_local Scratch<T> own;
  return own;
}

int64_t splits_for(int64_t tiles, int64_t rows, int64_t threads) {
  return tiles >= threads ? 1 : std::min(rows, (threads + tiles - 1) / tiles);
}

// First row of split `number`: rows cost their entries plus a constant for the store.
int64_t split_row(const RowLists& lists, int64_t number, int64_t splits) {
  constexpr int64_t kRowCost = 4;
  const int32_t* ptr = lists.ptr.data();
  const int64_t target = (lists.entries + kRowCost * lists.rows) * number / splits;
  int64_t low = 0, high = lists.rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (ptr[middle] + kRowCost * middle < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

template <typename T>
void apply(const KernelTable<T>& kernels, const Factor<T>& factor, const T* x, T* y, int64_t pitch,
           const T* bias, int64_t row_begin, int64_t row_end, int64_t positions) {
  kernels.gather(x, y, pitch, factor.lists->ptr.data(), factor.lists->offset.data(), factor.values,
                 bias, row_begin, row_end, positions);
}

template <typename T>
void gather_tile(const GatherPass<T>& pass, const Tile& tile, int64_t row_begin, int64_t row_end) {
  const KernelTable<T>& k = kernels<T>();
  const Tiling& t = pass.tiling;
  Scratch<T>& own = scratch<T>();
  T* packed = own.source.reserve(pass.source_channels * t.pitch);
  pack_source(k, pass.sweep, t, tile, pass.source, pass.source_channels, packed);
  const T* x = packed;
  if (pass.inner.lists != nullptr) {
    const int64_t rows = pass.inner.lists->rows;
    T* inner = own.inner.reserve(rows * pass.inner_pitch);
    apply<T>(k, pass.inner, packed, inner, pass.inner_pitch, nullptr, 0, rows,
             pass.inner_positions);
    x = inner;
  }
  const int64_t pitch = odd_pitch(t.positions, k.lanes);
  T* y = own.out.reserve((row_end - row_begin) * pitch);
  apply(k, pass.factor, x, y, pitch, pass.bias, row_begin, row_end, t.positions);
  unpack_rows(k, pass.sweep, t, tile, y, pitch, row_begin, row_end, pass.out);
}

template <typename T>
void correlate_tile(const CorrelatePass<T>& pass, const Tile& tile, int64_t row_begin,
                    int64_t row_end, T* out) {
  const KernelTable<T>& k = kernels<T>();
  const Tiling& t = pass.tiling;
  Scratch<T>& own = scratch<T>();
  T* packed = own.source.reserve(pass.source_channels * t.pitch);
  pack_source(k, pass.sweep, t, tile, pass.source, pass.source_channels, packed);
  T* grad = own.grad.reserve(pass.grad_channels * pass.grad_pitch);
  pack_grid(k, pass.sweep, t, tile, pass.grad, pass.grad_channels, pass.grad_pitch, grad);
  const T *x = packed, *y = grad;
  const Factor<T>& inner = pass.inner_source.lists ? pass.inner_source : pass.inner_grad;
  if (inner.lists != nullptr) {
    T* computed = own.inner.reserve(inner.lists->rows * pass.grad_pitch);
    apply<T>(k, inner, pass.inner_source.lists ? x : y, computed, pass.grad_pitch, nullptr, 0,
             inner.lists->rows, t.positions);
    (pass.inner_source.lists ? x : y) = computed;
  }
  k.correlate(x, y + row_begin * pass.grad_pitch, pass.grad_pitch, pass.lists->ptr.data(),
              pass.lists->offset.data(),
              pass.lists->values_in_order ? nullptr : pass.lists->value.data(), out, row_begin,
              row_end, t.positions);
}

// out = the chunks' partial sums, added in chunk order.
template <typename T>
void reduce_chunks(const T* partial, int64_t chunks, int64_t count, T* out,
                   const Parallel& parallel) {
  constexpr int64_t kSlice = 16384;
  parallel.for_each((count + kSlice - 1) / kSlice, [&](int64_t slice) {
    const int64_t end = std::min(count, (slice + 1) * kSlice);
    for (int64_t i = slice * kSlice; i < end; ++i) {
      T sum = partial[i];
      for (int64_t chunk = 1; chunk < chunks; ++chunk) sum += partial[chunk * count + i];
      out[i] = sum;
    }
  });
}

}  // namespace

template <typename T>
Factor<T> make_factor(const RowLists& lists, const T* values, Buffer<T>* ordered) {
  if (lists.values_in_order) return {&lists, values};
  T* to = ordered->reserve(lists.entries);
  const int32_t* value = lists.value.data();
  for (int64_t k = 0; k < lists.entries; ++k) to[k] = values[value[k]];
  return {&lists, to};
}

template <typename T>
void run_gather(const GatherPass<T>& pass, const Parallel& parallel) {
  const RowLists& lists = *pass.factor.lists;
  require_reachable(pass.source_channels, pass.tiling.pitch);
  if (pass.inner.lists != nullptr) require_reachable(pass.inner.lists->rows, pass.inner_pitch);
  // Splitting a tile's rows repeats the inner product, so a pass that has one is never split.
  const int64_t tiles = pass.tiling.tiles();
  const int64_t splits =
      pass.inner.lists != nullptr ? 1 : splits_for(tiles, lists.rows, parallel.threads);
  parallel.for_each(tiles * splits, [&](int64_t task) {
    const Tile tile = tile_at(pass.tiling, pass.sweep, pass.batch, task / splits);
    const int64_t begin = split_row(lists, task % splits, splits);
    const int64_t end = split_row(lists, task % splits + 1, splits);
    if (begin < end) gather_tile(pass, tile, begin, end);
  });
}

template <typename T>
void run_correlate(const CorrelatePass<T>& pass, const Parallel& parallel) {
  const RowLists& lists = *pass.lists;
  require_reachable(pass.source_channels, pass.tiling.pitch);
  require_reachable(pass.grad_channels, pass.grad_pitch);
  if (pass.inner_source.lists != nullptr) {
    require_reachable(pass.inner_source.lists->rows, pass.grad_pitch);
  }
  const int64_t tiles = pass.tiling.tiles();
  const int64_t chunks = std::min(tiles, parallel.threads);
  // Entries of different rows may share an output (filter bases), so only plain passes are split.
  const int64_t splits =
      lists.values_in_order ? splits_for(tiles, lists.rows, parallel.threads) : 1;
  thread_local Buffer<T> partial_buffer;
  T* partial = chunks == 1 ? pass.out : partial_buffer.reserve(chunks * pass.out_count);
  std::fill(partial, partial + chunks * pass.out_count, T(0));
  parallel.for_each(chunks * splits, [&](int64_t task) {
    const int64_t chunk = task / splits;
    const int64_t begin = split_row(lists, task % splits, splits);
    const int64_t end = split_row(lists, task % splits + 1, splits);
    for (int64_t i = tiles * chunk / chunks; i < tiles * (chunk + 1) / chunks; ++i) {
      const Tile tile = tile_at(pass.tiling, pass.sweep, pass.batch, i);
      correlate_tile(pass, tile, begin, end, partial + chunk * pass.out_count);
    }
  });
  if (chunks > 1) reduce_chunks(partial, chunks, pass.out_count, pass.out, parallel);
}

#define FBCONV_INSTANTIATE(T)                                               \
  template Factor<T> make_factor<T>(const RowLists&, const T*, Buffer<T>*); \
  template void run_gather<T>(const GatherPass<T>&, const Parallel&);       \
  template void run_correlate<T>(const CorrelatePass<T>&, const Parallel&);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
