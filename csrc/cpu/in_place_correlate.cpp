#include "in_place_correlate.h"

#include "kernels.h"
#include "work_split.h"

namespace fbconv {
namespace {

// Spots whose gradients are held in registers together; as neighbours of one image, or as the same
// place of so many images, which then share their masks.
constexpr int64_t kSpots = 8;

template <typename T>
void correlate_tile(const InPlaceCorrelate<T>& pass, const InPlaceTile& tile,
                    const Parallel& parallel, T* sums) {
  thread_local Buffer<T> copy;
  const InPlaceMap& map = *pass.map;
  const RowLists& lists = *pass.lists;
  const InPlaceSource<T> x = in_place_source(pass.tiling, map, tile, pass.source,
                                             pass.source_channels, &copy, parallel);
  over_rows(lists, 0, lists.rows, parallel, [&](int64_t begin, int64_t end) {
    const auto correlate = [&](int64_t image, int64_t vector, int64_t spots, int64_t x_step,
                               int64_t y_step, int64_t mask_step) {
      MaskedWork<T> work{x.data + image * x.image_step + vector * map.lanes,
                         map.row(tile.vector + vector),
                         spots,
                         x_step,
                         y_step,
                         mask_step,
                         pass.grad.channel_stride,
                         static_cast<uint8_t>(map.masks),
                         nullptr,
                         lists.offset.data(),
                         lists.mask.data(),
                         nullptr,
                         begin,
                         end};
      const T* y = pass.grad.data + (tile.image + image) * pass.grad.batch_stride +
                   (tile.vector + vector) * map.lanes + begin * pass.grad.channel_stride;
      for (int64_t block = 0; block < lists.blocks; ++block) {
        work.ptr = lists.block_ptr(block);
        kernels<T>().masked_correlate(work, y, sums);
      }
    };
    // A few spots at a time: what they read of a block of channels stays in the first cache.
    if (tile.images >= kSpots) {
      for (int64_t v = 0; v < tile.vectors; ++v) {
        for (int64_t i = 0; i < tile.images; i += kSpots) {
          correlate(i, v, std::min(kSpots, tile.images - i), x.image_step, pass.grad.batch_stride,
                    0);
        }
      }
      return;
    }
    for (int64_t i = 0; i < tile.images; ++i) {
      for (int64_t v = 0; v < tile.vectors; v += kSpots) {
        correlate(i, v, std::min(kSpots, tile.vectors - v), map.lanes, map.lanes, map.masks + 1);
      }
    }
  });
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

template void run_in_place<float>(const InPlaceCorrelate<float>&, const Parallel&);
template void run_in_place<double>(const InPlaceCorrelate<double>&, const Parallel&);

}  // namespace fbconv
