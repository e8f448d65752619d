// The two ways through a batch: gather (outputs and input gradients) and correlate (parameter
// gradients).  Both walk tiles in parallel; a tile is packed, worked on in the thread's own scratch
// and written out.  The work is split the same way for the same shapes and thread count and nothing
// is accumulated atomically, so results are reproducible.
#pragma once

#include "../core/parallel.h"
#include "../core/row_lists.h"
#include "kernels.h"

namespace fbconv {

// Row lists with the values they multiply, brought into list order once per call.
template <typename T>
struct Factor {
  const RowLists* lists = nullptr;
  const T* values = nullptr;
};
template <typename T>
Factor<T> make_factor(const RowLists& lists, const T* values, Buffer<T>* ordered);

// out = factor * source, or factor * (inner * source) where inner's rows are computed per tile and
// `inner_positions` of each, `inner_pitch` apart.
template <typename T>
struct GatherPass {
  Sweep sweep;
  Tiling tiling;
  int64_t batch, source_channels;
  MapView<const T> source;
  MapView<T> out;
  Factor<T> factor;
  const T* bias = nullptr;
  Factor<T> inner = {};
  int64_t inner_positions = 0, inner_pitch = 0;
};
template <typename T>
void run_gather(const GatherPass<T>& pass, const Parallel& parallel);

// out[value of entry] += <rows of y, shifted rows of x> with x = source or inner_x * source, and
// y = grad or inner_y * grad, at a tile's grid points.
template <typename T>
struct CorrelatePass {
  Sweep sweep;
  Tiling tiling;
  int64_t batch, source_channels, grad_channels;
  MapView<const T> source, grad;
  const RowLists* lists;
  T* out;
  int64_t out_count;
  int64_t grad_pitch;
  Factor<T> inner_source = {}, inner_grad = {};
};
template <typename T>
void run_correlate(const CorrelatePass<T>& pass, const Parallel& parallel);

}  // namespace fbconv
