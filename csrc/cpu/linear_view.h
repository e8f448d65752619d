// Linear layers come as maps of one column with their batch along the rows; the kernels want it
// along the images, whose lanes they can fill.
#pragma once

#include "../core/geometry.h"

namespace fbconv {

inline bool rows_are_independent(const ConvGeometry& g) {
  return g.batch == 1 && g.in_w == 1 && g.taps() == 1 && g.stride_h == 1 && g.pad_h == 0 &&
         g.stride_w == 1 && g.pad_w == 0;
}

inline ConvGeometry rows_as_images(ConvGeometry g) {
  if (!rows_are_independent(g)) return g;
  g.batch = g.in_h;
  g.in_h = 1;
  return g;
}

template <typename T>
MapView<T> rows_as_images(const ConvGeometry& g, MapView<T> map) {
  if (!rows_are_independent(g)) return map;
  return {map.data, map.row_stride, map.channel_stride, 0, 0};
}

}  // namespace fbconv
