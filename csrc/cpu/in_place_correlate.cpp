#include "in_place_correlate.h"

#include "in_place_spots.h"
#include "work_split.h"

namespace fbconv {
namespace {

// sums += the products of the entries of rows [begin, end) in some blocks.
template <typename T>
void correlate_blocks(const InPlaceCorrelate<T>& pass, const InPlaceTile& tile,
                      const SpotView<const T>& x, int64_t block_begin, int64_t block_end,
                      int64_t begin, int64_t end, T* sums) {
  const RowLists& lists = *pass.lists;
  const SpotView<const T> y = flat_spots(*pass.map, tile, pass.grad);
  over_spots(*pass.map, tile, x, y, kCorrelatedSpots, [&](MaskedWork<T> work, const T* grad) {
    work.y_row = pass.grad.channel_stride;
    work.offset = lists.offset.data();
    work.mask = lists.mask.data();
    work.row_begin = begin;
    work.row_end = end;
    for (int64_t block = block_begin; block < block_end; ++block) {
      work.ptr = lists.block_ptr(block);
      kernels<T>().masked_correlate(work, grad + begin * work.y_row, sums);
    }
  });
}

template <typename T>
void correlate_tile(const InPlaceCorrelate<T>& pass, const InPlaceTile& tile,
                    const Parallel& parallel, T* sums) {
  thread_local Buffer<T> copy;
  const RowLists& lists = *pass.lists;
  const SpotView<const T> x = in_place_source(pass.tiling, *pass.map, tile, pass.source,
                                              pass.source_channels, &copy, parallel);
  if constexpr (std::is_same_v<T, float>) {
    if (pass.inner.lists != nullptr) {
      thread_local Buffer<float> held;
      thread_local std::vector<Spot> spots;
      const SpotView<const float> rows = row_spots<const float>(*pass.map, tile, nullptr);
      place_spots(*pass.map, tile, x, rows, &spots);
      for (int64_t block = 0; block < lists.blocks; ++block) {
        const float* inner = compute_inner(pass.inner, spots, block, x.data, &held, parallel);
        over_rows(lists, 0, lists.rows, parallel, [&](int64_t begin, int64_t end) {
          correlate_blocks(pass, tile, row_spots(*pass.map, tile, inner), block, block + 1, begin,
                           end, sums);
        });
      }
      return;
    }
  }
  over_rows(lists, 0, lists.rows, parallel, [&](int64_t begin, int64_t end) {
    correlate_blocks(pass, tile, x, 0, lists.blocks, begin, end, sums);
  });
}

void correlate_basis_tile(const InPlaceBasisCorrelate& pass, int64_t number, float* sums) {
  thread_local Buffer<float> copy, grad_copy, held;
  thread_local std::vector<Spot> spots;
  const InPlaceMap& map = *pass.map;
  const InPlaceTile tile = in_place_tile(pass.tiling, map, pass.batch, number);
  const InPlaceTile grad_tile = in_place_tile(pass.grad_tiling, *pass.grad_map, pass.batch, number);
  const SpotView<const float> x = in_place_source(pass.tiling, map, tile, pass.source,
                                                  pass.source_channels, &copy, kAlone);
  const SpotView<const float> grad =
      in_place_source(pass.grad_tiling, *pass.grad_map, grad_tile, pass.grad, pass.grad_channels,
                      &grad_copy, kAlone);
  place_spots(*pass.grad_map, grad_tile, grad,
              row_spots<const float>(*pass.grad_map, grad_tile, nullptr), &spots);
  for (int64_t first = 0; first < pass.inner.rows; first += pass.block) {
    const float* inner =
        compute_inner(pass.inner, spots, first / pass.block, grad.data, &held, kAlone);
    over_spots(map, tile, x, row_spots(map, tile, inner), kCorrelatedSpots,
               [&](MaskedWork<float> work, const float* y) {
                 work.y_row = pass.inner.pitch;
                 work.ptr = pass.lists->ptr.data();
                 work.offset = pass.lists->offset.data();
                 work.mask = pass.lists->mask.data();
                 work.value = pass.lists->value.data();
                 work.run_end = pass.lists->run_end.data();
                 work.row_begin = first;
                 work.row_end = std::min(pass.inner.rows, first + pass.block);
                 kernels<float>().masked_correlate_shared(work, y, sums);
               });
  }
}

}  // namespace

template <typename T>
void run_in_place(const InPlaceCorrelate<T>& pass, const Parallel& parallel) {
  sum_tiles(*pass.lists, pass.tiling.tiles(), false, parallel, pass.out, pass.lists->entries,
            [&](int64_t number, const Parallel& within, T* sums) {
              correlate_tile(pass, in_place_tile(pass.tiling, *pass.map, pass.batch, number), within,
                             sums);
            });
}

void run_in_place(const InPlaceBasisCorrelate& pass, const Parallel& parallel) {
  thread_local Buffer<float> buffer;
  const int64_t lanes = pass.map->lanes, tiles = pass.tiling.tiles();
  const int64_t chunks = std::min(tiles, parallel.threads), size = pass.out_count * lanes;
  float* sums = buffer.reserve(chunks * size);
  std::fill(sums, sums + chunks * size, 0.0f);
  parallel.for_each(chunks, [&](int64_t chunk) {
    for (int64_t tile = tiles * chunk / chunks; tile < tiles * (chunk + 1) / chunks; ++tile) {
      correlate_basis_tile(pass, tile, sums + chunk * size);
    }
  });
  for (int64_t i = 0; i < pass.out_count; ++i) {
    float total = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const float* lane = sums + chunk * size + i * lanes;
      for (int64_t j = 0; j < lanes; ++j) total += lane[j];
    }
    pass.out[i] = total;
  }
}

template void run_in_place<float>(const InPlaceCorrelate<float>&, const Parallel&);
template void run_in_place<double>(const InPlaceCorrelate<double>&, const Parallel&);

}  // namespace fbconv
