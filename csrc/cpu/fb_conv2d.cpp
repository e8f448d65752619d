#include <algorithm>

#include "../core/basis_lists.h"
#include "ops.h"
#include "passes.h"

namespace fbconv {
namespace {

// Everything a filter-basis pass builds anew from the pattern; kept per thread for its memory.
template <typename T>
struct Workspace {
  BasisColumns columns;
  RowLists taps, mix;
  Buffer<T> tap_values, mix_values;
};

template <typename T>
Workspace<T>& workspace() {
  thread_local Workspace<T> own;
  return own;
}

template <typename T>
Tiling tile_for(const Sweep& sweep, int64_t batch, int64_t source_channels, int64_t inner_rows,
                int64_t out_rows, const Parallel& parallel) {
  return make_tiling(sweep, batch, source_channels * sweep.source_phases() + inner_rows + out_rows,
                     sizeof(T), kernels<T>().lanes, parallel.threads);
}

template <typename T>
int64_t grid_pitch(const Tiling& tiling) {
  return odd_pitch(tiling.positions, kernels<T>().lanes);
}

// Z = taps * X at the grid points, Y = mix * Z.
template <typename T>
void basis_first(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                 MapView<const T> input, const T* basis, const T* values, const T* bias,
                 MapView<T> output, const Parallel& parallel) {
  Workspace<T>& own = workspace<T>();
  make_input_columns(g, layout, p, &own.columns);
  const Sweep sweep = forward_sweep(g);
  const Tiling tiling =
      tile_for<T>(sweep, g.batch, g.in_channels, own.columns.count, g.out_channels, parallel);
  const int64_t pitch = grid_pitch<T>(tiling);
  make_column_taps(g, own.columns, sweep, tiling, &own.taps);
  make_mix(p, own.columns, pitch, &own.mix);
  run_gather<T>({sweep, tiling, g.batch, g.in_channels, input, output,
                 make_factor(own.mix, values, &own.mix_values), bias,
                 make_factor(own.taps, basis, &own.tap_values), tiling.positions, pitch},
                parallel);
}

// U = mix * X over whole packed channels, margins and phases included, Y = taps * U.
template <typename T>
void mix_first(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
               MapView<const T> input, const T* basis, const T* values, const T* bias,
               MapView<T> output, const Parallel& parallel) {
  Workspace<T>& own = workspace<T>();
  make_output_columns(g, layout, p, &own.columns);
  const Sweep sweep = forward_sweep(g);
  const Tiling tiling =
      tile_for<T>(sweep, g.batch, g.in_channels, own.columns.count * sweep.source_phases(),
                  g.out_channels, parallel);
  make_mix_gathered(g, p, own.columns, tiling.pitch, &own.mix);
  make_column_taps_gathered(g, own.columns, sweep, tiling, &own.taps);
  run_gather<T>({sweep, tiling, g.batch, g.in_channels, input, output,
                 make_factor(own.taps, basis, &own.tap_values), bias,
                 make_factor(own.mix, values, &own.mix_values), tiling.pitch, tiling.pitch},
                parallel);
}

}  // namespace

template <typename T>
void fb_conv2d(const ConvGeometry& g, const BasisLayout& layout, MixOrder order,
               const PatternView& p, MapView<const T> input, const T* basis, const T* values,
               const T* bias, MapView<T> output, const Parallel& parallel) {
  if (g.batch == 0) return;
  const auto run = order == MixOrder::kBasisFirst ? basis_first<T> : mix_first<T>;
  run(g, layout, p, input, basis, values, bias, output, parallel);
}

// dZ = mix^T * dY over whole packed channels, dX = taps^T * dZ.
template <typename T>
void fb_conv2d_grad_input(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                          MapView<const T> grad, const T* basis, const T* values,
                          MapView<T> grad_input, const Parallel& parallel) {
  if (g.batch == 0) return;
  Workspace<T>& own = workspace<T>();
  make_input_columns(g, layout, p, &own.columns);
  const Sweep sweep = adjoint_sweep(g);
  const Tiling tiling = tile_for<T>(sweep, g.batch, g.out_channels, own.columns.count,
                                    g.in_channels * sweep.out_phases(), parallel);
  make_mix_adjoint(p, own.columns, tiling.pitch, &own.mix);
  make_column_taps_adjoint(g, own.columns, sweep, tiling, &own.taps);
  run_gather<T>({sweep, tiling, g.batch, g.out_channels, grad, grad_input,
                 make_factor(own.taps, basis, &own.tap_values), nullptr,
                 make_factor(own.mix, values, &own.mix_values), tiling.pitch, tiling.pitch},
                parallel);
}

// dg = <dZ, shifted X> with dZ = mix^T * dY at the grid points.
template <typename T>
void fb_conv2d_grad_basis(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                          MapView<const T> grad, MapView<const T> input, const T* values,
                          T* grad_basis, const Parallel& parallel) {
  const int64_t count = layout.bases * layout.elements * g.taps();
  std::fill(grad_basis, grad_basis + count, T(0));
  if (g.batch == 0) return;
  Workspace<T>& own = workspace<T>();
  make_input_columns(g, layout, p, &own.columns);
  const Sweep sweep = forward_sweep(g);
  const Tiling tiling =
      tile_for<T>(sweep, g.batch, g.in_channels, own.columns.count, g.out_channels, parallel);
  const int64_t pitch = grid_pitch<T>(tiling);
  make_column_taps(g, own.columns, sweep, tiling, &own.taps);
  make_mix_adjoint(p, own.columns, pitch, &own.mix);
  run_correlate<T>({sweep,
                    tiling,
                    g.batch,
                    g.in_channels,
                    g.out_channels,
                    input,
                    grad,
                    &own.taps,
                    grad_basis,
                    count,
                    pitch,
                    {},
                    make_factor(own.mix, values, &own.mix_values)},
                   parallel);
}

// dcoefficient = <dY, Z> with Z = taps * X at the grid points.
template <typename T>
void fb_conv2d_grad_values(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                           MapView<const T> grad, MapView<const T> input, const T* basis,
                           T* grad_values, const Parallel& parallel) {
  std::fill(grad_values, grad_values + p.nnz, T(0));
  if (g.batch == 0) return;
  Workspace<T>& own = workspace<T>();
  make_input_columns(g, layout, p, &own.columns);
  const Sweep sweep = forward_sweep(g);
  const Tiling tiling =
      tile_for<T>(sweep, g.batch, g.in_channels, own.columns.count, g.out_channels, parallel);
  const int64_t pitch = grid_pitch<T>(tiling);
  make_column_taps(g, own.columns, sweep, tiling, &own.taps);
  make_mix(p, own.columns, pitch, &own.mix);
  run_correlate<T>({sweep, tiling, g.batch, g.in_channels, g.out_channels, input, grad, &own.mix,
                    grad_values, p.nnz, pitch, make_factor(own.taps, basis, &own.tap_values)},
                   parallel);
}

#define FBCONV_INSTANTIATE(T)                                                                     \
  template void fb_conv2d<T>(const ConvGeometry&, const BasisLayout&, MixOrder,                   \
                             const PatternView&, MapView<const T>, const T*, const T*, const T*,  \
                             MapView<T>, const Parallel&);                                        \
  template void fb_conv2d_grad_input<T>(const ConvGeometry&, const BasisLayout&,                  \
                                        const PatternView&, MapView<const T>, const T*, const T*, \
                                        MapView<T>, const Parallel&);                             \
  template void fb_conv2d_grad_basis<T>(const ConvGeometry&, const BasisLayout&,                  \
                                        const PatternView&, MapView<const T>, MapView<const T>,   \
                                        const T*, T*, const Parallel&);                           \
  template void fb_conv2d_grad_values<T>(const ConvGeometry&, const BasisLayout&,                 \
                                         const PatternView&, MapView<const T>, MapView<const T>,  \
                                         const T*, T*, const Parallel&);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
