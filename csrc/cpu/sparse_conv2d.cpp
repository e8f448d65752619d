#include <algorithm>

#include "ops.h"
#include "passes.h"

namespace fbconv {
namespace {

template <typename T>
Tiling tile_for(const Sweep& sweep, int64_t batch, int64_t source_channels, int64_t out_rows,
                const Parallel& parallel) {
  return make_tiling(sweep, batch, source_channels * sweep.source_phases() + out_rows, sizeof(T),
                     kernels<T>().lanes, parallel.threads);
}

}  // namespace

template <typename T>
void sparse_conv2d(const ConvGeometry& g, const PatternView& p, MapView<const T> input,
                   const T* values, const T* bias, MapView<T> output, const Parallel& parallel) {
  if (g.batch == 0) return;
  thread_local RowLists lists;
  const Sweep sweep = forward_sweep(g);
  const Tiling tiling = tile_for<T>(sweep, g.batch, g.in_channels, g.out_channels, parallel);
  make_forward_lists(g, p, sweep, tiling, &lists);
  run_gather<T>({sweep, tiling, g.batch, g.in_channels, input, output, {&lists, values}, bias},
                parallel);
}

template <typename T>
void sparse_conv2d_grad_input(const ConvGeometry& g, const PatternView& p, MapView<const T> grad,
                              const T* values, MapView<T> grad_input, const Parallel& parallel) {
  if (g.batch == 0) return;
  thread_local RowLists lists;
  thread_local Buffer<T> ordered;
  const Sweep sweep = adjoint_sweep(g);
  const Tiling tiling =
      tile_for<T>(sweep, g.batch, g.out_channels, g.in_channels * sweep.out_phases(), parallel);
  make_adjoint_lists(g, p, sweep, tiling, &lists);
  run_gather<T>({sweep, tiling, g.batch, g.out_channels, grad, grad_input,
                 make_factor(lists, values, &ordered)},
                parallel);
}

template <typename T>
void sparse_conv2d_grad_values(const ConvGeometry& g, const PatternView& p, MapView<const T> grad,
                               MapView<const T> input, T* grad_values, const Parallel& parallel) {
  if (g.batch == 0) {
    std::fill(grad_values, grad_values + p.nnz, T(0));
    return;
  }
  thread_local RowLists lists;
  const Sweep sweep = forward_sweep(g);
  const Tiling tiling = tile_for<T>(sweep, g.batch, g.in_channels, g.out_channels, parallel);
  make_forward_lists(g, p, sweep, tiling, &lists);
  run_correlate<T>({sweep, tiling, g.batch, g.in_channels, g.out_channels, input, grad, &lists,
                    grad_values, p.nnz, odd_pitch(tiling.positions, kernels<T>().lanes)},
                   parallel);
}

#define FBCONV_INSTANTIATE(T)                                                               \
  template void sparse_conv2d<T>(const ConvGeometry&, const PatternView&, MapView<const T>, \
                                 const T*, const T*, MapView<T>, const Parallel&);          \
  template void sparse_conv2d_grad_input<T>(const ConvGeometry&, const PatternView&,        \
                                            MapView<const T>, const T*, MapView<T>,         \
                                            const Parallel&);                               \
  template void sparse_conv2d_grad_values<T>(const ConvGeometry&, const PatternView&,       \
                                             MapView<const T>, MapView<const T>, T*,        \
                                             const Parallel&);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
