#include "in_place_correlate.h"

#include "kernels.h"
#include "work_split.h"

namespace fbconv {
namespace {

// Spots whose gradients are held in registers together; as neighbours of one image, or as the same
// place of so many images, which then share their masks.
constexpr int64_t kSpots = 8;

// Calls f(image, vector, spots, neighbours) for all spots of a tile, a few at a time: what they read
// of a block of channels stays in the first cache.  Neighbours are vectors of one image; else spots
// are the same vector of neighbouring images.
template <typename F>
void over_spots(const InPlaceTile& tile, const F& f) {
  if (tile.images >= kSpots) {
    for (int64_t v = 0; v < tile.vectors; ++v) {
      for (int64_t i = 0; i < tile.images; i += kSpots) {
        f(i, v, std::min(kSpots, tile.images - i), false);
      }
    }
    return;
  }
  for (int64_t i = 0; i < tile.images; ++i) {
    for (int64_t v = 0; v < tile.vectors; v += kSpots) {
      f(i, v, std::min(kSpots, tile.vectors - v), true);
    }
  }
}

// A map as spots see it: how far it is from one image and one vector of a tile to the next.
template <typename T>
struct SpotView {
  const T* data;
  int64_t image_step, vector_step;

  const T* at(int64_t image, int64_t vector) const {
    return data + image * image_step + vector * vector_step;
  }
  int64_t step(bool neighbours) const { return neighbours ? vector_step : image_step; }
};

template <typename T>
MaskedWork<T> spot_work(const InPlaceMap& map, const InPlaceTile& tile, const SpotView<T>& x,
                        const SpotView<T>& y, int64_t y_row, const RowLists& lists, int64_t image,
                        int64_t vector, int64_t spots, bool neighbours) {
  MaskedWork<T> work{};
  work.x = x.at(image, vector);
  work.masks = map.row(tile.vector + vector);
  work.spots = spots;
  work.x_step = x.step(neighbours);
  work.y_step = y.step(neighbours);
  work.mask_step = neighbours ? map.masks + 1 : 0;
  work.y_row = y_row;
  work.own_mask = static_cast<uint8_t>(map.masks);
  work.offset = lists.offset.data();
  work.mask = lists.mask.data();
  return work;
}

template <typename T>
SpotView<T> spots_of(const InPlaceMap& map, const InPlaceTile& tile, MapView<const T> whole) {
  return {whole.data + tile.image * whole.batch_stride + tile.vector * map.lanes,
          whole.batch_stride, map.lanes};
}

// sums += the products of a block's entries.
template <typename T>
void correlate_block(const InPlaceCorrelate<T>& pass, const InPlaceTile& tile,
                     const SpotView<T>& x, int64_t block, int64_t begin, int64_t end, T* sums) {
  const SpotView<T> y = spots_of(*pass.map, tile, pass.grad);
  over_spots(tile, [&](int64_t image, int64_t vector, int64_t spots, bool neighbours) {
    MaskedWork<T> work = spot_work(*pass.map, tile, x, y, pass.grad.channel_stride, *pass.lists,
                                   image, vector, spots, neighbours);
    work.row_begin = begin;
    work.row_end = end;
    const int64_t last = block < 0 ? pass.lists->blocks : block + 1;
    for (int64_t b = std::max<int64_t>(0, block); b < last; ++b) {
      work.ptr = pass.lists->block_ptr(b);
      kernels<T>().masked_correlate(work, y.at(image, vector) + begin * work.y_row, sums);
    }
  });
}

template <typename T>
void correlate_tile(const InPlaceCorrelate<T>& pass, const InPlaceTile& tile,
                    const Parallel& parallel, T* sums) {
  thread_local Buffer<T> copy;
  const RowLists& lists = *pass.lists;
  const InPlaceSource<T> x = in_place_source(pass.tiling, *pass.map, tile, pass.source,
                                             pass.source_channels, &copy, parallel);
  constexpr int64_t kAllBlocks = -1;
  if constexpr (std::is_same_v<T, float>) {
    if (pass.inner.lists != nullptr) {
      thread_local Buffer<float> held;
      thread_local std::vector<Spot> spots;
      const int64_t lanes = pass.map->lanes;
      place_spots(*pass.map, tile, x.image_step, 0, &spots);
      for (int64_t block = 0; block < lists.blocks; ++block) {
        const float* inner =
            compute_inner(pass.inner, spots, lanes, block, x.data, &held, parallel);
        over_rows(lists, 0, lists.rows, parallel, [&](int64_t begin, int64_t end) {
          correlate_block(pass, tile, {inner, tile.vectors * lanes, lanes}, block, begin, end, sums);
        });
      }
      return;
    }
  }
  over_rows(lists, 0, lists.rows, parallel, [&](int64_t begin, int64_t end) {
    correlate_block(pass, tile, {x.data, x.image_step, pass.map->lanes}, kAllBlocks, begin, end,
                    sums);
  });
}

void correlate_basis_tile(const InPlaceBasisCorrelate& pass, const InPlaceTile& tile, float* sums) {
  thread_local Buffer<float> copy, held;
  thread_local std::vector<Spot> spots;
  const InPlaceMap& map = *pass.map;
  const InPlaceSource<float> x = in_place_source(pass.tiling, map, tile, pass.source,
                                                 pass.source_channels, &copy, kAlone);
  const SpotView<float> grad = spots_of(map, tile, pass.grad);
  place_spots(map, tile, pass.grad.batch_stride, 0, &spots);
  for (int64_t first = 0; first < pass.inner.rows; first += pass.block) {
    const float* inner =
        compute_inner(pass.inner, spots, map.lanes, first / pass.block, grad.data, &held, kAlone);
    const SpotView<float> y{inner, tile.vectors * map.lanes, map.lanes};
    over_spots(tile, [&](int64_t image, int64_t vector, int64_t count, bool neighbours) {
      MaskedWork<float> work =
          spot_work(map, tile, {x.data, x.image_step, map.lanes}, y, pass.inner.pitch, *pass.lists,
                    image, vector, count, neighbours);
      work.ptr = pass.lists->ptr.data();
      work.value = pass.lists->value.data();
      work.row_begin = first;
      work.row_end = std::min(pass.inner.rows, first + pass.block);
      kernels<float>().masked_correlate_shared(work, y.at(image, vector), sums);
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
  const int64_t chunks = std::min(tiles, parallel.threads);
  float* sums = buffer.reserve(chunks * pass.out_count * lanes);
  std::fill(sums, sums + chunks * pass.out_count * lanes, 0.0f);
  parallel.for_each(chunks, [&](int64_t chunk) {
    for (int64_t tile = tiles * chunk / chunks; tile < tiles * (chunk + 1) / chunks; ++tile) {
      correlate_basis_tile(pass, in_place_tile(pass.tiling, *pass.map, pass.batch, tile),
                           sums + chunk * pass.out_count * lanes);
    }
  });
  for (int64_t i = 0; i < pass.out_count; ++i) {
    float total = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const float* lane = sums + (chunk * pass.out_count + i) * lanes;
      for (int64_t j = 0; j < lanes; ++j) total += lane[j];
    }
    pass.out[i] = total;
  }
}

template void run_in_place<float>(const InPlaceCorrelate<float>&, const Parallel&);
template void run_in_place<double>(const InPlaceCorrelate<double>&, const Parallel&);

}  // namespace fbconv
