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

constexpr Parallel kAlone{1, [](int64_t tasks, void (*body)(void*, int64_t), void* context) {
                            for (int64_t task = 0; task < tasks; ++task) body(context, task);
                          }};

// Whether each thread takes tiles of its own.
bool tiles_suffice(int64_t tiles, int64_t threads) {
  return threads == 1 || tiles >= 4 * threads || tiles % threads == 0;
}

// body(begin, end) for as many equal parts of [0, count) as there are threads.
template <typename F>
void in_parts(int64_t count, const Parallel& parallel, const F& body) {
  const int64_t parts = std::min(count, parallel.threads);
  parallel.for_each(parts,
                    [&](int64_t part) { body(count * part / parts, count * (part + 1) / parts); });
}

// The row of a block at which part `number` of `parts` begins: rows cost their entries plus a
// constant for the store.
int64_t split_row(const RowLists& lists, int64_t block, int64_t begin, int64_t end, int64_t number,
                  int64_t parts) {
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

template <typename T>
ListWork<T> block_work(const RowLists& lists, int64_t block, int64_t row_begin, int64_t row_end) {
  ListWork<T> work{};
  work.ptr = lists.block_ptr(block);
  work.offset = lists.offset.data();
  work.row_begin = row_begin;
  work.row_end = row_end;
  return work;
}

// y = factor * x for rows row_begin .. row_end - 1; y points to row_begin's.
template <typename T>
void apply_blocks(const Factor<T>& factor, const T* x, int64_t x_line, const Inner<T>& shape,
                  int64_t row_begin, int64_t row_end, T* y) {
  for (int64_t block = 0; block < factor.lists->blocks; ++block) {
    ListWork<T> work = block_work<T>(*factor.lists, block, row_begin, row_end);
    work.x = x;
    work.x_line = x_line;
    work.y_row = shape.pitch;
    work.y_line = shape.line * kernels<T>().lanes;
    work.lines = shape.lines;
    work.line = shape.line;
    if (factor.lists->has_runs) {
      kernels<T>().gather_runs(work, factor.lists->run_end.data(), factor.values, y);
    } else {
      kernels<T>().gather(work, factor.values, nullptr, block > 0, y);
    }
  }
}

template <typename T>
void compute_inner(const Inner<T>& inner, const T* x, int64_t x_line, int64_t row_begin,
                   int64_t row_end, const Parallel& parallel, T* y) {
  over_rows(*inner.factor.lists, row_begin, row_end, parallel, [&](int64_t begin, int64_t end) {
    apply_blocks(inner.factor, x, x_line, inner, begin, end, y + (begin - row_begin) * inner.pitch);
  });
}

// The grid of a tile, of which a last one may use fewer lines.
template <typename T>
ListWork<T> grid_work(ListWork<T> work, const Tiling& t, const Tile& tile) {
  work.y_row = t.grid_pitch;
  work.y_line = t.line * t.lanes;
  work.lines = t.kind == Lanes::kTaps ? 1 : tile.rows;
  work.line = t.line;
  return work;
}

// Rows that one step of an inner factor brings into being for block `block` of the outer lists.
int64_t block_begin(const RowLists& lists, int64_t inner_rows, int64_t block) {
  return std::min(inner_rows, block * lists.block_planes);
}

template <typename T>
T* pack_source(const Sweep& sweep, const Tiling& t, const Tile& tile, const Planes& planes,
               MapView<const T> source, Buffer<T>* buffer, const Parallel& parallel) {
  T* packed = buffer->reserve(planes.count * t.plane);
  in_parts(planes.count, parallel, [&](int64_t begin, int64_t end) {
    pack_planes(sweep, t, tile, source, planes, begin, end, packed);
  });
  return packed;
}

template <typename T>
void gather_tile(const GatherPass<T>& pass, const Tile& tile, const Parallel& parallel) {
  const Tiling& t = pass.tiling;
  const RowLists& lists = *pass.factor.lists;
  Scratch<T>& own = scratch<T>();
  const T* packed =
      pack_source(pass.sweep, t, tile, *pass.planes, pass.source, &own.source, parallel);
  T* direct = direct_rows(pass.sweep, t, tile, pass.out);
  T* y = direct ? direct : own.out.reserve(lists.rows * t.grid_pitch);
  const int64_t y_row = direct ? pass.out.channel_stride : t.grid_pitch;
  const auto step = [&](const T* x, int64_t block, int64_t begin, int64_t end) {
    ListWork<T> work = grid_work(block_work<T>(lists, block, begin, end), t, tile);
    work.x = x;
    work.x_line = pass.x_line;
    work.y_row = y_row;
    if (direct) work.y_line = pass.out.row_stride;
    kernels<T>().gather(work, pass.factor.values, pass.bias, block > 0, y + begin * y_row);
  };
  const auto write = [&](int64_t begin, int64_t end) {
    if (direct) return;
    unpack_rows(pass.sweep, t, tile, y + begin * t.grid_pitch, begin, end, pass.out);
  };
  if (pass.inner.factor.lists == nullptr) {
    over_rows(lists, 0, lists.rows, parallel, [&](int64_t begin, int64_t end) {
      for (int64_t block = 0; block < lists.blocks; ++block) step(packed, block, begin, end);
      write(begin, end);
    });
    return;
  }
  const int64_t inner_rows = pass.inner.factor.lists->rows;
  T* inner = own.inner.reserve(std::min(inner_rows, lists.block_planes) * pass.inner.pitch);
  for (int64_t block = 0; block < lists.blocks; ++block) {
    compute_inner(pass.inner, packed, t.source_line, block_begin(lists, inner_rows, block),
                  block_begin(lists, inner_rows, block + 1), parallel, inner);
    over_rows(lists, 0, lists.rows, parallel, [&](int64_t begin, int64_t end) {
      step(inner, block, begin, end);
      if (block + 1 == lists.blocks) write(begin, end);
    });
  }
}

template <typename T>
void correlate_tile(const CorrelatePass<T>& pass, const Tile& tile, const Parallel& parallel,
                    T* sums) {
  const Tiling& t = pass.tiling;
  const RowLists& lists = *pass.lists;
  Scratch<T>& own = scratch<T>();
  const T* packed =
      pack_source(pass.sweep, t, tile, *pass.planes, pass.source, &own.source, parallel);
  T* grad = own.grad.reserve(pass.grad_channels * t.grid_pitch);
  in_parts(pass.grad_channels, parallel, [&](int64_t begin, int64_t end) {
    pack_grid(pass.sweep, t, tile, pass.grad, begin, end, grad);
  });
  // Rows begin .. end - 1 of block `block`, of which y's first is `origin`.
  const auto step = [&](const T* x, int64_t x_line, const T* y, int64_t origin, int64_t block,
                        int64_t begin, int64_t end) {
    ListWork<T> work = grid_work(block_work<T>(lists, block, begin, end), t, tile);
    work.x = x;
    work.x_line = x_line;
    kernels<T>().correlate(work, y + (begin - origin) * t.grid_pitch, sums);
  };
  const int64_t grid_line = t.line * t.lanes;
  if (pass.inner_source.factor.lists != nullptr) {
    const int64_t inner_rows = pass.inner_source.factor.lists->rows;
    T* inner =
        own.inner.reserve(std::min(inner_rows, lists.block_planes) * pass.inner_source.pitch);
    for (int64_t block = 0; block < lists.blocks; ++block) {
      compute_inner(pass.inner_source, packed, t.source_line, block_begin(lists, inner_rows, block),
                    block_begin(lists, inner_rows, block + 1), parallel, inner);
      over_rows(lists, 0, lists.rows, parallel, [&](int64_t begin, int64_t end) {
        step(inner, grid_line, grad, 0, block, begin, end);
      });
    }
  } else if (pass.inner_grad.factor.lists != nullptr) {
    // Gradient rows in portions that stay in the second cache until they are used.
    constexpr int64_t kPortion = 64;
    T* inner = own.inner.reserve(std::min(lists.rows, kPortion) * t.grid_pitch);
    for (int64_t first = 0; first < lists.rows; first += kPortion) {
      const int64_t last = std::min(lists.rows, first + kPortion);
      compute_inner(pass.inner_grad, static_cast<const T*>(grad), grid_line, first, last, parallel,
                    inner);
      over_rows(lists, first, last, parallel, [&](int64_t begin, int64_t end) {
        for (int64_t block = 0; block < lists.blocks; ++block) {
          step(packed, t.source_line, inner, first, block, begin, end);
        }
      });
    }
  } else {
    over_rows(lists, 0, lists.rows, parallel, [&](int64_t begin, int64_t end) {
      for (int64_t block = 0; block < lists.blocks; ++block) {
        step(packed, t.source_line, grad, 0, block, begin, end);
      }
    });
  }
}

// out[value of entry k] += the chunks' sums of k, added in chunk order.
template <typename T>
void reduce_chunks(const RowLists& lists, const T* sums, int64_t chunks, bool shared, T* out,
                   const Parallel& parallel) {
  const int32_t* value = lists.values_in_order ? nullptr : lists.value.data();
  const auto add = [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      T sum = sums[k];
      for (int64_t chunk = 1; chunk < chunks; ++chunk) sum += sums[chunk * lists.entries + k];
      out[value ? value[k] : k] += sum;
    }
  };
  if (shared) {
    add(0, lists.entries);
  } else {
    in_parts(lists.entries, parallel, add);
  }
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
  const int64_t tiles = pass.tiling.tiles();
  const auto tile = [&](int64_t i) { return tile_at(pass.tiling, pass.sweep, pass.batch, i); };
  if (tiles_suffice(tiles, parallel.threads)) {
    parallel.for_each(tiles, [&](int64_t i) { gather_tile(pass, tile(i), kAlone); });
  } else {
    for (int64_t i = 0; i < tiles; ++i) gather_tile(pass, tile(i), parallel);
  }
}

template <typename T>
void run_correlate(const CorrelatePass<T>& pass, const Parallel& parallel) {
  const RowLists& lists = *pass.lists;
  const int64_t tiles = pass.tiling.tiles();
  const bool own_tiles = tiles_suffice(tiles, parallel.threads);
  const int64_t chunks = own_tiles ? std::min(tiles, parallel.threads) : 1;
  thread_local Buffer<T> sums_buffer;
  T* sums = sums_buffer.reserve(chunks * lists.entries);
  std::fill(sums, sums + chunks * lists.entries, T(0));
  const auto run = [&](int64_t chunk, const Parallel& within) {
    for (int64_t i = tiles * chunk / chunks; i < tiles * (chunk + 1) / chunks; ++i) {
      const Tile tile = tile_at(pass.tiling, pass.sweep, pass.batch, i);
      correlate_tile(pass, tile, within, sums + chunk * lists.entries);
    }
  };
  if (own_tiles) {
    parallel.for_each(chunks, [&](int64_t chunk) { run(chunk, kAlone); });
  } else {
    run(0, parallel);
  }
  std::fill(pass.out, pass.out + pass.out_count, T(0));
  reduce_chunks(lists, sums, chunks, pass.shared_values, pass.out, parallel);
}

#define FBCONV_INSTANTIATE(T)                                               \
  template Factor<T> make_factor<T>(const RowLists&, const T*, Buffer<T>*); \
  template void run_gather<T>(const GatherPass<T>&, const Parallel&);       \
  template void run_correlate<T>(const CorrelatePass<T>&, const Parallel&);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
