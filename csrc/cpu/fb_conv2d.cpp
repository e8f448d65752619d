#include <algorithm>

#include "../core/basis_lists.h"
#include "basis_plan.h"
#include "fb_conv2d_in_place.h"
#include "ops.h"
#include "passes.h"

namespace fbconv {
namespace {

constexpr int64_t kInnerBytes = 256 * 1024;  // of inner rows held at once: they share the L2

// The two factors of a filter-basis pass made ready to run.
struct BasisPlan {
  Sweep sweep;
  Tiling tiling;
  Planes planes;
  int64_t source_run;  // elements of a source channel's planes together
  RowLists taps, mix;

  int64_t bytes() const { return planes.bytes() + taps.bytes() + mix.bytes(); }
};

// Blocks of inner rows of `row_bytes`: as many as the second factor's rows find worth a pass, and
// the cache has room for.
int64_t inner_block(int64_t columns, int64_t row_bytes, const EntryLists& outer, const Tiling& t) {
  constexpr int64_t kLeast = 16, kStepBytes = 512;
  const int64_t room = std::max(kLeast, kInnerBytes / row_bytes);
  return std::min(room,
                  planes_per_block(columns, kStepBytes, outer.rows, outer.entries, t.vectors()));
}

// Inner rows that a tile is expected to hold: they come in blocks, whose size only a tiling
// decides.
int64_t held_columns(int64_t columns) { return std::min<int64_t>(columns, 64); }

Lanes aligned_lanes(const Sweep& sweep, const Workload& work) {
  return choose_lanes(sweep, work, {Lanes::kColumns, Lanes::kTaps, Lanes::kImages});
}

// Lanes for passes whose inner rows are read with shifts: these exist only once, so their copies
// cannot be aligned.
Lanes shared_lanes(const Sweep& sweep, const Workload& work) {
  return choose_lanes(sweep, work, {Lanes::kPlain, Lanes::kImages});
}

void check_reach(const BasisPlan& plan, int64_t inner_rows, int64_t inner_pitch) {
  require_reachable(plan.planes.count, plan.tiling.plane);
  require_reachable(std::max<int64_t>(1, inner_rows), inner_pitch);
}

// One block: columns come by channel, so that what neighbouring rows read is in cache anyway.
void make_taps(const EntryLists& entries, BasisPlan* plan) {
  make_blocks(entries, plan->planes.count, std::max<int64_t>(1, plan->planes.count),
              plan->tiling.plane, false, &plan->taps);
  find_runs(&plan->taps);
}

// The tiles, planes and taps of passes over the columns of the input.
void make_input_taps(const BasisProblem& b, BasisPlan* plan, BasisColumns* columns,
                     EntryLists* taps) {
  make_input_columns(b.g, b.layout, b.p, columns);
  plan->sweep = forward_sweep(b.g);
  const Workload work = b.work(b.g.in_channels, b.p.nnz + columns->count * b.g.taps(),
                               held_columns(columns->count), b.g.out_channels);
  plan->tiling = make_tiling(plan->sweep, work, aligned_lanes(plan->sweep, work));
  TapTable table;
  make_forward_taps(b.g, plan->tiling, &table);
  make_column_taps(b.g, *columns, table, taps);
  drop_dead_planes(table, b.g.in_channels, taps, &plan->planes);
}

// Z = taps * X at the grid points, Y = mix * Z.
void make_basis_first(const BasisProblem& b, BasisPlan* plan) {
  BasisColumns columns;
  EntryLists taps, mix;
  make_input_taps(b, plan, &columns, &taps);
  make_mix(b.p, columns, &mix);
  const int64_t pitch = plan->tiling.grid_pitch;
  check_reach(*plan, columns.count, pitch);
  make_taps(taps, plan);
  make_blocks(mix, columns.count,
              inner_block(columns.count, pitch * b.element_size, mix, plan->tiling), pitch, true,
              &plan->mix);
}

// U = mix * X over whole channels, margins and phases included, Y = taps * U.
void make_mix_first(const BasisProblem& b, BasisPlan* plan) {
  BasisColumns columns;
  make_output_columns(b.g, b.layout, b.p, &columns);
  plan->sweep = forward_sweep(b.g);
  const Workload work = b.work(b.g.in_channels, b.p.nnz + columns.count * b.g.taps(),
                               held_columns(columns.count), b.g.out_channels);
  plan->tiling = make_tiling(plan->sweep, work, shared_lanes(plan->sweep, work));
  TapTable table;
  make_forward_taps(b.g, plan->tiling, &table);
  make_all_planes(table, b.g.in_channels, &plan->planes);
  plan->source_run = table.planes * plan->tiling.plane;
  EntryLists taps, mix;
  make_mix_gathered(b.g, b.p, columns, &mix);
  make_column_taps_gathered(b.g, columns, table, plan->tiling.plane, &taps);
  check_reach(*plan, columns.count, plan->source_run);
  make_blocks(mix, b.g.in_channels,
              planes_per_block(b.g.in_channels, 512, mix.rows, mix.entries, plan->tiling.vectors()),
              plan->source_run, false, &plan->mix);
  make_blocks(taps, columns.count,
              inner_block(columns.count, plan->source_run * b.element_size, taps, plan->tiling),
              plan->source_run, true, &plan->taps);
}

// E = taps^T * dY at the grid points, dX = mix^T * E: taps first, because their planes can be
// packed so that all they read is aligned, and no margins are computed.
void make_adjoint(const BasisProblem& b, BasisPlan* plan) {
  BasisColumns columns;
  make_output_columns(b.g, b.layout, b.p, &columns);
  plan->sweep = adjoint_sweep(b.g);
  const int64_t phases = plan->sweep.out_phases(), rows = columns.count * phases;
  const Workload work = b.work(b.g.out_channels, b.p.nnz + columns.count * b.g.taps(),
                               held_columns(rows), b.g.in_channels * phases);
  plan->tiling = make_tiling(plan->sweep, work, aligned_lanes(plan->sweep, work));
  TapTable table;
  make_adjoint_taps(b.g, plan->sweep, plan->tiling, &table);
  EntryLists taps, mix;
  make_column_taps_adjoint(b.g, columns, phases, table, &taps);
  drop_dead_planes(table, b.g.out_channels, &taps, &plan->planes);
  make_mix_adjoint_outputs(b.g, b.p, columns, phases, &mix);
  const int64_t pitch = plan->tiling.grid_pitch;
  check_reach(*plan, rows, pitch);
  make_taps(taps, plan);
  make_blocks(mix, rows, inner_block(rows, pitch * b.element_size, mix, plan->tiling), pitch, true,
              &plan->mix);
}

// dg = <dZ, shifted X> with dZ = mix^T * dY at the grid points.
void make_basis_gradient(const BasisProblem& b, BasisPlan* plan) {
  BasisColumns columns;
  EntryLists taps, mix;
  make_input_taps(b, plan, &columns, &taps);
  make_mix_adjoint(b.p, columns, &mix);
  const int64_t pitch = plan->tiling.grid_pitch;
  check_reach(*plan, std::max(columns.count, b.g.out_channels), pitch);
  make_taps(taps, plan);
  make_blocks(
      mix, b.g.out_channels,
      planes_per_block(b.g.out_channels, 512, mix.rows, mix.entries, plan->tiling.vectors()), pitch,
      false, &plan->mix);
}

using MakePlan = void (*)(const BasisProblem&, BasisPlan*);

template <MakePlan make>
std::shared_ptr<const BasisPlan> plan_for(const BasisProblem& b) {
  static PlanCache<BasisPlan> cache;
  return cache.get(b.key(), [&](BasisPlan* plan) { make(b, plan); });
}

template <typename T>
struct Ordered {
  Buffer<T> taps, mix;
};

template <typename T>
Ordered<T>& ordered() {
  thread_local Ordered<T> own;
  return own;
}

// Rows computed at the grid points, or over whole channels of the source.
template <typename T>
Inner<T> on_grid(const Factor<T>& factor, const Tiling& t) {
  return {factor, t.lines, t.line, t.grid_pitch};
}
template <typename T>
Inner<T> on_channels(const Factor<T>& factor, const BasisPlan& plan) {
  return {factor, 1, plan.source_run / plan.tiling.lanes, plan.source_run};
}

template <typename Pass>
void set_tiles(const BasisPlan& plan, int64_t batch, Pass* pass) {
  pass->sweep = plan.sweep;
  pass->tiling = plan.tiling;
  pass->batch = batch;
  pass->planes = &plan.planes;
}

}  // namespace

template <typename T>
void fb_conv2d(const ConvGeometry& g, const BasisLayout& layout, MixOrder order,
               const PatternView& p, MapView<const T> input, const T* basis, const T* values,
               const T* bias, MapView<T> output, const Parallel& parallel) {
  if (g.batch == 0) return;
  const bool basis_first = order == MixOrder::kBasisFirst;
  if constexpr (std::is_same_v<T, float>) {
    if (basis_first &&
        fb_conv2d_in_place(g, layout, p, input, basis, values, bias, output, parallel)) {
      return;
    }
  }
  const BasisProblem b = basis_problem<T>(g, layout, p, parallel.threads);
  const auto plan = basis_first ? plan_for<make_basis_first>(b) : plan_for<make_mix_first>(b);
  const Factor<T> taps = make_factor(plan->taps, basis, &ordered<T>().taps);
  const Factor<T> mix = make_factor(plan->mix, values, &ordered<T>().mix);
  GatherPass<T> pass;
  set_tiles(*plan, g.batch, &pass);
  pass.source = input;
  pass.out = output;
  pass.bias = bias;
  pass.factor = basis_first ? mix : taps;
  pass.inner = basis_first ? on_grid(taps, plan->tiling) : on_channels(mix, *plan);
  pass.x_line = basis_first ? plan->tiling.line * plan->tiling.lanes : plan->tiling.source_line;
  run_gather(pass, parallel);
}

template <typename T>
void fb_conv2d_grad_input(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                          MapView<const T> grad, const T* basis, const T* values,
                          MapView<T> grad_input, const Parallel& parallel) {
  if (g.batch == 0) return;
  if constexpr (std::is_same_v<T, float>) {
    if (fb_conv2d_grad_input_in_place(g, layout, p, grad, basis, values, grad_input, parallel)) {
      return;
    }
  }
  const auto plan = plan_for<make_adjoint>(basis_problem<T>(g, layout, p, parallel.threads));
  GatherPass<T> pass;
  set_tiles(*plan, g.batch, &pass);
  pass.source = grad;
  pass.out = grad_input;
  pass.factor = make_factor(plan->mix, values, &ordered<T>().mix);
  pass.inner = on_grid(make_factor(plan->taps, basis, &ordered<T>().taps), plan->tiling);
  pass.x_line = plan->tiling.line * plan->tiling.lanes;
  run_gather(pass, parallel);
}

template <typename T>
void fb_conv2d_grad_basis(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                          MapView<const T> grad, MapView<const T> input, const T* values,
                          T* grad_basis, const Parallel& parallel) {
  const int64_t count = layout.bases * layout.elements * g.taps();
  std::fill(grad_basis, grad_basis + count, T(0));
  if (g.batch == 0) return;
  if constexpr (std::is_same_v<T, float>) {
    if (fb_conv2d_grad_basis_in_place(g, layout, p, grad, input, values, grad_basis, parallel)) {
      return;
    }
  }
  const auto plan = plan_for<make_basis_gradient>(basis_problem<T>(g, layout, p, parallel.threads));
  CorrelatePass<T> pass;
  set_tiles(*plan, g.batch, &pass);
  pass.source = input;
  pass.grad = grad;
  pass.grad_channels = g.out_channels;
  pass.lists = &plan->taps;
  pass.out = grad_basis;
  pass.out_count = count;
  pass.shared_values = true;
  pass.inner_grad = on_grid(make_factor(plan->mix, values, &ordered<T>().mix), plan->tiling);
  run_correlate(pass, parallel);
}

template <typename T>
void fb_conv2d_grad_values(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                           MapView<const T> grad, MapView<const T> input, const T* basis,
                           T* grad_values, const Parallel& parallel) {
  std::fill(grad_values, grad_values + p.nnz, T(0));
  if (g.batch == 0) return;
  if constexpr (std::is_same_v<T, float>) {
    if (fb_conv2d_grad_values_in_place(g, layout, p, grad, input, basis, grad_values, parallel)) {
      return;
    }
  }
  const auto plan = plan_for<make_basis_first>(basis_problem<T>(g, layout, p, parallel.threads));
  CorrelatePass<T> pass;
  set_tiles(*plan, g.batch, &pass);
  pass.source = input;
  pass.grad = grad;
  pass.grad_channels = g.out_channels;
  pass.lists = &plan->mix;
  pass.out = grad_values;
  pass.out_count = p.nnz;
  pass.inner_source = on_grid(make_factor(plan->taps, basis, &ordered<T>().taps), plan->tiling);
  run_correlate(pass, parallel);
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
