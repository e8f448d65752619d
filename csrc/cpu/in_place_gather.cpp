#include "in_place_gather.h"

#include "kernels.h"
#include "work_split.h"

namespace fbconv {
namespace {

const float* zeros(int64_t count) {
  thread_local std::vector<float> own;
  if (static_cast<int64_t>(own.size()) < count) own.assign(count, 0.0f);
  return own.data();
}

// Where a tile's spots lie in the source and in the output.
template <typename T>
void place_spots(const InPlaceGather<T>& pass, const InPlaceTile& tile, int64_t image_step,
                 std::vector<Spot>* spots) {
  const InPlaceMap& map = *pass.map;
  spots->resize(tile.images * tile.vectors);
  for (int64_t i = 0; i < tile.images; ++i) {
    for (int64_t v = 0; v < tile.vectors; ++v) {
      (*spots)[i * tile.vectors + v] = {
          i * image_step + v * map.lanes,
          (tile.image + i) * pass.out.batch_stride + (tile.vector + v) * map.lanes,
          map.row(tile.vector + v)};
    }
  }
}

void gather_compiled(const InPlaceGather<float>& pass, const InPlaceTile& tile,
                     const InPlaceSource<float>& x, const Parallel& parallel) {
  thread_local std::vector<Spot> own;
  place_spots(pass, tile, x.image_step, &own);
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
  const CompiledLists &first = *pass.inner.compiled, &second = *outer.factor.compiled;
  over_tiles(outer.tiling.tiles(), parallel, [&](int64_t number, const Parallel& within) {
    thread_local Buffer<float> copy, scratch;
    thread_local std::vector<Spot> whole, own_first, own_second;
    const InPlaceTile tile = in_place_tile(outer.tiling, *outer.map, outer.batch, number);
    const InPlaceSource<float> x = in_place_source(outer.tiling, *outer.map, tile, outer.source,
                                                   outer.source_channels, &copy, within);
    place_spots(outer, tile, x.image_step, &whole);
    own_first = own_second = whole;
    for (size_t i = 0; i < whole.size(); ++i) {
      own_first[i].y = own_second[i].x = static_cast<int64_t>(i) * outer.map->lanes;
    }
    const std::vector<Spot>&before = own_first, &after = own_second;
    const float* no_bias = zeros(std::max(outer.rows, pass.inner_rows));
    const float* bias = outer.bias ? outer.bias : no_bias;
    float* inner = scratch.reserve(first.most_group_rows() * pass.inner_pitch);
    for (int64_t block = 0; block < second.blocks(); ++block) {
      const int64_t from = first.group_begin(block), to = first.group_begin(block + 1);
      in_parts(to - from, within, [&](int64_t begin, int64_t end) {
        first.run(from + begin, from + end, 0, before, x.data, pass.inner.values, no_bias, inner);
      });
      in_parts(second.row_blocks(), within, [&](int64_t begin, int64_t end) {
        second.run(begin, end, block, after, inner, outer.factor.values, bias, outer.out.data);
      });
    }
  });
}

template void run_in_place<float>(const InPlaceGather<float>&, const Parallel&);
template void run_in_place<double>(const InPlaceGather<double>&, const Parallel&);

}  // namespace fbconv
