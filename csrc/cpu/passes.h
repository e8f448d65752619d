// The two ways through a batch: gather (outputs and input gradients) and correlate (parameter
// gradients).  A tile is packed, worked on in scratch and written out.  Where there are tiles
// enough every thread takes its own; else the threads share each one, row by row.  The work is
// split the same way for the same shapes and thread count and nothing is accumulated atomically, so
// results are reproducible.
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

// A first factor whose rows are computed per tile and never leave it: the planes of the second, or
// the gradient rows of a correlation.
template <typename T>
struct Inner {
  Factor<T> factor = {};
  int64_t lines = 0, line = 0;  // of its rows, which lie `pitch` apart
  int64_t pitch = 0;
};

// out = factor * source, or factor * (inner * source); the factor's blocks say which of the inner
// rows are needed together.
template <typename T>
struct GatherPass {
  Sweep sweep = {};
  Tiling tiling = {};
  int64_t batch = 0;
  const Planes* planes = nullptr;
  MapView<const T> source = {};
  MapView<T> out = {};
  Factor<T> factor = {};
  const T* bias = nullptr;
  Inner<T> inner = {};
  int64_t x_line = 0;  // of what the factor reads
};
template <typename T>
void run_gather(const GatherPass<T>& pass, const Parallel& parallel);

// out[value of entry] += <rows of y, shifted rows of x> with x = source or inner_x * source, and
// y = grad or inner_y * grad, at a tile's grid points.
template <typename T>
struct CorrelatePass {
  Sweep sweep = {};
  Tiling tiling = {};
  int64_t batch = 0;
  const Planes* planes = nullptr;
  int64_t grad_channels = 0;
  MapView<const T> source = {}, grad = {};
  const RowLists* lists = nullptr;
  T* out = nullptr;
  int64_t out_count = 0;
  bool shared_values = false;  // entries of different rows may use the same
  Inner<T> inner_source = {}, inner_grad = {};
};
template <typename T>
void run_correlate(const CorrelatePass<T>& pass, const Parallel& parallel);

}  // namespace fbconv
