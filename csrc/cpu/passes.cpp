#include "passes.h"

#include <algorithm>

#include "tile_io.h"
#include "work_split.h"

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
  over_tiles(pass.tiling.tiles(), parallel, [&](int64_t number, const Parallel& within) {
    gather_tile(pass, tile_at(pass.tiling, pass.sweep, pass.batch, number), within);
  });
}

template <typename T>
void run_correlate(const CorrelatePass<T>& pass, const Parallel& parallel) {
  sum_tiles(*pass.lists, pass.tiling.tiles(), pass.shared_values, parallel, pass.out,
            pass.out_count, [&](int64_t number, const Parallel& within, T* sums) {
              const Tile tile = tile_at(pass.tiling, pass.sweep, pass.batch, number);
              correlate_tile(pass, tile, within, sums);
            });
}

#define FBCONV_INSTANTIATE(T)                                               \
  template Factor<T> make_factor<T>(const RowLists&, const T*, Buffer<T>*); \
  template void run_gather<T>(const GatherPass<T>&, const Parallel&);       \
  template void run_correlate<T>(const CorrelatePass<T>&, const Parallel&);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
