// Inner products of output gradients with shifted maps that are read where they lie.
#pragma once

#include "in_place_inner.h"

namespace fbconv {

// out[value of entry] = sum over the batch of <grad[row], shifted source[channel]>, or with the rows
// of `inner` in the place of the source: of these a block of the lists exists at a time.
template <typename T>
struct InPlaceCorrelate {
  const InPlaceMap* map = nullptr;
  InPlaceTiling tiling = {};
  int64_t batch = 0, source_channels = 0;
  MapView<const T> source = {}, grad = {};
  const RowLists* lists = nullptr;
  InPlaceInner inner = {};
  T* out = nullptr;
};
template <typename T>
void run_in_place(const InPlaceCorrelate<T>& pass, const Parallel& parallel);

// out[value of entry] = sum over the batch and all entries of that value of <inner[row], shifted
// source[channel]>, with inner = lists * grad.
struct InPlaceBasisCorrelate {
  const InPlaceMap *map = nullptr, *grad_map = nullptr;
  InPlaceTiling tiling = {}, grad_tiling = {};
  int64_t batch = 0, source_channels = 0, grad_channels = 0;
  MapView<const float> source = {}, grad = {};
  const RowLists* lists = nullptr;
  InPlaceInner inner = {};
  int64_t block = 0;  // rows in a group of the inner lists
  float* out = nullptr;
  int64_t out_count = 0;
};
void run_in_place(const InPlaceBasisCorrelate& pass, const Parallel& parallel);

}  // namespace fbconv
