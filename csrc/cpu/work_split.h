// How passes share their work among threads: always the same way for the same shapes and thread
// count, and nothing is accumulated atomically, so results are reproducible.
#pragma once

#include <algorithm>

#include "../core/parallel.h"
#include "../core/row_lists.h"

namespace fbconv {

constexpr Parallel kAlone{1, [](int64_t tasks, void (*body)(void*, int64_t), void* context) {
                            for (int64_t task = 0; task < tasks; ++task) body(context, task);
                          }};

// body(begin, end) for as many equal parts of [0, count) as there are threads.
template <typename F>
void in_parts(int64_t count, const Parallel& parallel, const F& body) {
  const int64_t parts = std::min(count, parallel.threads);
  parallel.for_each(parts,
                    [&](int64_t part) { body(count * part / parts, count * (part + 1) / parts); });
}

// Whether each thread takes tiles of its own; else the threads share each one.
inline bool tiles_suffice(int64_t tiles, int64_t threads) {
  return threads == 1 || tiles >= 4 * threads || tiles % threads == 0;
}

// body(tile, parallel) for all tiles.
template <typename F>
void over_tiles(int64_t tiles, const Parallel& parallel, const F& body) {
  if (tiles_suffice(tiles, parallel.threads)) {
    parallel.for_each(tiles, [&](int64_t tile) { body(tile, kAlone); });
  } else {
    for (int64_t tile = 0; tile < tiles; ++tile) body(tile, parallel);
  }
}

// The row of a block at which part `number` of `parts` begins: rows cost their entries plus a
// constant for the store.
inline int64_t split_row(const RowLists& lists, int64_t block, int64_t begin, int64_t end,
                         int64_t number, int64_t parts) {
  constexpr int64_t kRowCost = 4;
  const int32_t* ptr = lists.block_ptr(block);
  const int64_t all = ptr[end] - ptr[begin] + kRowCost * (end - begin);
  const int64_t target = all * number / parts;
  int64_t low = begin, high = end;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (ptr[middle] - ptr[begin] + kRowCost * (middle - begin) < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// body(row_begin, row_end) over the rows [begin, end), parts of equal work.  A row is in the same
// part for every block, so that blocks need no barrier between them.
template <typename F>
void over_rows(const RowLists& lists, int64_t begin, int64_t end, const Parallel& parallel,
               const F& body) {
  const int64_t parts = std::min(end - begin, parallel.threads);
  parallel.for_each(parts, [&](int64_t part) {
    const int64_t first = split_row(lists, 0, begin, end, part, parts);
    const int64_t last = split_row(lists, 0, begin, end, part + 1, parts);
    if (first < last) body(first, last);
  });
}

// out[value of entry k] += the chunks' sums of k, added in chunk order.  If values are shared,
// entries of different rows may have the same.
template <typename T>
void reduce_chunks(const RowLists& lists, const T* sums, int64_t chunks, bool shared_values, T* out,
                   const Parallel& parallel) {
  const int32_t* value = lists.values_in_order ? nullptr : lists.value.data();
  const auto add = [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      T sum = sums[k];
      for (int64_t chunk = 1; chunk < chunks; ++chunk) sum += sums[chunk * lists.entries + k];
      out[value ? value[k] : k] += sum;
    }
  };
  if (shared_values) {
    add(0, lists.entries);
  } else {
    in_parts(lists.entries, parallel, add);
  }
}

// out = sums over all tiles: body(tile, parallel, sums) adds a tile's sums, one for each entry of
// the lists.
template <typename T, typename F>
void sum_tiles(const RowLists& lists, int64_t tiles, bool shared_values, const Parallel& parallel,
               T* out, int64_t out_count, const F& body) {
  const bool own_tiles = tiles_suffice(tiles, parallel.threads);
  const int64_t chunks = own_tiles ? std::min(tiles, parallel.threads) : 1;
  thread_local Buffer<T> sums_buffer;
  T* sums = sums_buffer.reserve(chunks * lists.entries);
  std::fill(sums, sums + chunks * lists.entries, T(0));
  const auto run = [&](int64_t chunk, const Parallel& within) {
    for (int64_t tile = tiles * chunk / chunks; tile < tiles * (chunk + 1) / chunks; ++tile) {
      body(tile, within, sums + chunk * lists.entries);
    }
  };
  if (own_tiles) {
    parallel.for_each(chunks, [&](int64_t chunk) { run(chunk, kAlone); });
  } else {
    run(0, parallel);
  }
  std::fill(out, out + out_count, T(0));
  reduce_chunks(lists, sums, chunks, shared_values, out, parallel);
}

}  // namespace fbconv
