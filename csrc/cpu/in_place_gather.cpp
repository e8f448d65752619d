#include "in_place_gather.h"

#include "kernels.h"
#include "work_split.h"

namespace fbconv {
namespace {

void gather_compiled(const InPlaceGather<float>& pass, const InPlaceTile& tile,
                     const InPlaceSource<float>& x, const Parallel& parallel) {
  thread_local std::vector<Spot> own;
  place_spots(*pass.map, tile, x.image_step, pass.out.batch_stride, &own);
  const std::vector<Spot>& spots = own;
  const float* bias = pass.bias ? pass.bias : zeros(pass.rows);
  const CompiledLists& lists = *pass.factor.compiled;
  in_parts(lists.row_blocks(), parallel, [&](int64_t begin, int64_t end) {
    lists.run(begin, end, 0, spots, x.data, pass.factor.values, bias, pass.out.data);
  });
}

template <typename T>
void gather_walked(const InPlaceGather<T>& pass, const InPlaceTile& tile,
                   const InPlaceSource<T>& x, const Parallel& parallel) {
  const InPlaceMap& map = *pass.map;
  const RowLists& lists = *pass.factor.lists;
  in_parts(lists.rows, parallel, [&](int64_t begin, int64_t end) {
    const auto walk = [&](int64_t image, int64_t vector, int64_t spots, int64_t x_step,
                          int64_t y_step, int64_t mask_step) {
      const MaskedWork<T> work{x.data + image * x.image_step + vector * map.lanes,
                               map.row(tile.vector + vector),
                               spots,
                               x_step,
                               y_step,
                               mask_step,
                               pass.out.channel_stride,
                               static_cast<uint8_t>(map.masks),
                               lists.ptr.data(),
                               lists.offset.data(),
                               lists.mask.data(),
                               lists.values_in_order ? nullptr : lists.value.data(),
                               begin,
                               end};
      T* y = pass.out.data + (tile.image + image) * pass.out.batch_stride +
             (tile.vector + vector) * map.lanes + begin * pass.out.channel_stride;
      kernels<T>().masked_gather(work, pass.factor.values, pass.bias, false, y);
    };
    if (tile.images >= 4) {
      for (int64_t v = 0; v < tile.vectors; ++v) {
        walk(0, v, tile.images, x.image_step, pass.out.batch_stride, 0);
      }
    } else {
      for (int64_t i = 0; i < tile.images; ++i) {
        walk(i, 0, tile.vectors, map.lanes, map.lanes, map.masks + 1);
      }
    }
  });
}

}  // namespace

template <typename T>
void run_in_place(const InPlaceGather<T>& pass, const Parallel& parallel) {
  over_tiles(pass.tiling.tiles(), parallel, [&](int64_t number, const Parallel& within) {
    thread_local Buffer<T> copy;
    const InPlaceTile tile = in_place_tile(pass.tiling, *pass.map, pass.batch, number);
    const InPlaceSource<T> x = in_place_source(pass.tiling, *pass.map, tile, pass.source,
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
    const InPlaceTile tile = in_place_tile(outer.tiling, *outer.map, outer.batch, number);
    const InPlaceSource<float> x = in_place_source(outer.tiling, *outer.map, tile, outer.source,
                                                   outer.source_channels, &copy, within);
    place_spots(*outer.map, tile, x.image_step, outer.out.batch_stride, &own_in);
    own_out = own_in;
    for (size_t i = 0; i < own_out.size(); ++i) {
      own_out[i].x = static_cast<int64_t>(i) * outer.map->lanes;
    }
    const std::vector<Spot>&in = own_in, &out = own_out;
    const float* bias = outer.bias ? outer.bias : zeros(outer.rows);
    for (int64_t block = 0; block < lists.blocks(); ++block) {
      const float* inner =
          compute_inner(pass.inner, in, outer.map->lanes, block, x.data, &held, within);
      in_parts(lists.row_blocks(), within, [&](int64_t begin, int64_t end) {
        lists.run(begin, end, block, out, inner, outer.factor.values, bias, outer.out.data);
      });
    }
  });
}

template void run_in_place<float>(const InPlaceGather<float>&, const Parallel&);
template void run_in_place<double>(const InPlaceGather<double>&, const Parallel&);

}  // namespace fbconv
