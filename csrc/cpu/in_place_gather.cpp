#include "in_place_gather.h"

#include "in_place_spots.h"
#include "work_split.h"

namespace fbconv {
namespace {

void gather_compiled(const InPlaceGather<float>& pass, const InPlaceTile& tile,
                     const SpotView<const float>& x, const Parallel& parallel) {
  thread_local std::vector<Spot> own;
  const SpotView<float> y = flat_spots(*pass.map, tile, pass.out);
  place_spots(*pass.map, tile, x, {y.data, y.image_step, y.line_step}, &own);
  const std::vector<Spot>& spots = own;
  const float* bias = pass.bias ? pass.bias : zeros(pass.rows);
  const CompiledLists& lists = *pass.factor.compiled;
  in_parts(lists.row_blocks(), parallel, [&](int64_t begin, int64_t end) {
    lists.run(begin, end, 0, spots, x.data, pass.factor.values, bias, y.data);
  });
}

template <typename T>
void gather_walked(const InPlaceGather<T>& pass, const InPlaceTile& tile, const SpotView<const T>& x,
                   const Parallel& parallel) {
  const SpotView<T> y = flat_spots(*pass.map, tile, pass.out);
  const RowLists& lists = *pass.factor.lists;
  in_parts(lists.rows, parallel, [&](int64_t begin, int64_t end) {
    over_spots(*pass.map, tile, x, y, kWalkedSpots, [&](MaskedWork<T> work, T* to) {
      work.y_row = pass.out.channel_stride;
      work.offset = lists.offset.data();
      work.mask = lists.mask.data();
      work.value = lists.lists_in_order ? nullptr : lists.value.data();
      work.row_begin = begin;
      work.row_end = end;
      for (int64_t block = 0; block < lists.blocks; ++block) {
        work.ptr = lists.block_ptr(block);
        work.first_value = lists.first_value.data() + block * lists.rows;
        kernels<T>().masked_gather(work, pass.factor.values, pass.bias, block > 0,
                                   to + begin * work.y_row);
      }
    });
  });
}

}  // namespace

template <typename T>
void run_in_place(const InPlaceGather<T>& pass, const Parallel& parallel) {
  over_tiles(pass.tiling.tiles(), parallel, [&](int64_t number, const Parallel& within) {
    thread_local Buffer<T> copy;
    const InPlaceTile tile = in_place_tile(pass.tiling, *pass.map, pass.batch, number);
    const SpotView<const T> x = in_place_source(pass.tiling, *pass.map, tile, pass.source,
                                                pass.source_channels, &copy, within);
    if constexpr (std::is_same_v<T, float>) {
      if (pass.factor.compiled != nullptr) return gather_compiled(pass, tile, x, within);
    }
    gather_walked(pass, tile, x, within);
  });
}

void run_in_place(const InPlaceProduct& pass, const Parallel& parallel) {
  const InPlaceGather<float>& outer = pass.outer;
  const CompiledLists& lists = *outer.factor.compiled;
  over_tiles(outer.tiling.tiles(), parallel, [&](int64_t number, const Parallel& within) {
    thread_local Buffer<float> copy, held;
    thread_local std::vector<Spot> own_in, own_out;
    const InPlaceMap& map = *outer.map;
    const InPlaceTile tile = in_place_tile(outer.tiling, map, outer.batch, number);
    const SpotView<const float> x = in_place_source(outer.tiling, map, tile, outer.source,
                                                    outer.source_channels, &copy, within);
    const SpotView<float> y = flat_spots(map, tile, outer.out);
    const SpotView<const float> rows = row_spots<const float>(map, tile, nullptr);
    place_spots(map, tile, x, rows, &own_in);
    place_spots(map, tile, rows, {y.data, y.image_step, y.line_step}, &own_out);
    const std::vector<Spot>&in = own_in, &out = own_out;
    const float* bias = outer.bias ? outer.bias : zeros(outer.rows);
    for (int64_t block = 0; block < lists.blocks(); ++block) {
      const float* inner = compute_inner(pass.inner, in, block, x.data, &held, within);
      in_parts(lists.row_blocks(), within, [&](int64_t begin, int64_t end) {
        lists.run(begin, end, block, out, inner, outer.factor.values, bias, y.data);
      });
    }
  });
}

template void run_in_place<float>(const InPlaceGather<float>&, const Parallel&);
template void run_in_place<double>(const InPlaceGather<double>&, const Parallel&);

}  // namespace fbconv
