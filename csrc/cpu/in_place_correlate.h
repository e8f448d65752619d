// Inner products of output gradients with shifted maps that are read where they lie.
#pragma once

#include "in_place_tiles.h"

namespace fbconv {

// out[value of entry] = sum over the batch of <grad[row], shifted source[channel]>.
template <typename T>
struct InPlaceCorrelate {
  const InPlaceMap* map = nullptr;
  InPlaceTiling tiling = {};
  int64_t batch = 0, source_channels = 0;
  MapView<const T> source = {}, grad = {};
  const RowLists* lists = nullptr;
  T* out = nullptr;
};
template <typename T>
void run_in_place(const InPlaceCorrelate<T>& pass, const Parallel& parallel);

}  // namespace fbconv
