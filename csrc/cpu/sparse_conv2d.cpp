#include <algorithm>

#include "linear_view.h"
#include "ops.h"
#include "passes.h"
#include "sparse_conv2d_in_place.h"
#include "sparse_plan.h"

namespace fbconv {
namespace {

// A masked convolution, or its adjoint, made ready to run.
struct SparsePlan {
  Sweep sweep;
  Tiling tiling;
  Planes planes;
  RowLists lists;

  int64_t bytes() const { return planes.bytes() + lists.bytes(); }
};

void finish_plan(const EntryLists& entries, int64_t element_size, int64_t block_bytes,
                 int64_t group, SparsePlan* plan) {
  const Tiling& t = plan->tiling;
  require_reachable(plan->planes.count, t.plane);
  const int64_t per = planes_per_block(plan->planes.count, step_bytes(plan->sweep, t, element_size),
                                       entries.rows, entries.entries, t.vectors(), block_bytes);
  make_blocks(entries, plan->planes.count, per, t.plane, false, &plan->lists, group);
}

constexpr auto kAligned = {Lanes::kColumns, Lanes::kTaps, Lanes::kImages};
constexpr auto kAll = {Lanes::kColumns, Lanes::kTaps, Lanes::kImages, Lanes::kPlain};

void make_forward_plan(const SparseProblem& b, std::initializer_list<Lanes> kinds, bool correlates,
                       SparsePlan* plan) {
  plan->sweep = forward_sweep(b.g);
  const Workload work = b.work(b.g.in_channels, b.g.out_channels);
  plan->tiling = make_tiling(plan->sweep, work, choose_lanes(plan->sweep, work, kinds));
  TapTable taps;
  make_forward_taps(b.g, plan->tiling, &taps);
  EntryLists entries;
  make_forward_lists(b.g, b.p, taps, &entries);
  drop_dead_planes(taps, b.g.in_channels, &entries, &plan->planes);
  finish_plan(entries, b.element_size, correlates ? kCorrelateBytes : kGatherBytes,
              correlates ? b.lanes : 1, plan);
}

void make_output_plan(const SparseProblem& b, SparsePlan* plan) {
  make_forward_plan(b, kAll, false, plan);
}
// Correlations multiply all lanes, so that lanes beyond a line must hold zeros.
void make_weight_plan(const SparseProblem& b, SparsePlan* plan) {
  make_forward_plan(b, kAligned, true, plan);
}

void make_adjoint_plan(const SparseProblem& b, SparsePlan* plan) {
  plan->sweep = adjoint_sweep(b.g);
  const Workload work = b.work(b.g.out_channels, b.g.in_channels * plan->sweep.out_phases());
  plan->tiling = make_tiling(plan->sweep, work, choose_lanes(plan->sweep, work, kAll));
  TapTable taps;
  make_adjoint_taps(b.g, plan->sweep, plan->tiling, &taps);
  EntryLists entries;
  make_adjoint_lists(b.g, b.p, plan->sweep.out_phases(), taps, &entries);
  drop_dead_planes(taps, b.g.out_channels, &entries, &plan->planes);
  finish_plan(entries, b.element_size, kGatherBytes, 1, plan);
}

using MakePlan = void (*)(const SparseProblem&, SparsePlan*);

template <MakePlan make, typename T>
std::shared_ptr<const SparsePlan> plan_for(const ConvGeometry& g, const PatternView& p,
                                           const Parallel& parallel) {
  static PlanCache<SparsePlan> cache;
  const SparseProblem problem = sparse_problem<T>(g, p, parallel.threads);
  return cache.get(problem.key(), [&](SparsePlan* plan) { make(problem, plan); });
}

template <typename Pass>
void set_tiles(const SparsePlan& plan, int64_t batch, Pass* pass) {
  pass->sweep = plan.sweep;
  pass->tiling = plan.tiling;
  pass->batch = batch;
  pass->planes = &plan.planes;
}

}  // namespace

template <typename T>
void sparse_conv2d(const ConvGeometry& geometry, const PatternView& p, MapView<const T> input,
                   const T* values, const T* bias, MapView<T> output, const Parallel& parallel) {
  const ConvGeometry g = rows_as_images(geometry);
  if (g.batch == 0) return;
  if (sparse_conv2d_in_place(g, p, input, values, bias, output, parallel)) return;
  thread_local Buffer<T> ordered;
  const auto plan = plan_for<make_output_plan, T>(g, p, parallel);
  GatherPass<T> pass;
  set_tiles(*plan, g.batch, &pass);
  pass.source = rows_as_images(geometry, input);
  pass.out = rows_as_images(geometry, output);
  pass.factor = make_factor(plan->lists, values, &ordered);
  pass.bias = bias;
  pass.x_line = plan->tiling.source_line;
  run_gather(pass, parallel);
}

template <typename T>
void sparse_conv2d_grad_input(const ConvGeometry& geometry, const PatternView& p,
                              MapView<const T> grad, const T* values, MapView<T> grad_input,
                              const Parallel& parallel) {
  const ConvGeometry g = rows_as_images(geometry);
  if (g.batch == 0) return;
  if (sparse_conv2d_grad_input_in_place(g, p, grad, values, grad_input, parallel)) return;
  thread_local Buffer<T> ordered;
  const auto plan = plan_for<make_adjoint_plan, T>(g, p, parallel);
  GatherPass<T> pass;
  set_tiles(*plan, g.batch, &pass);
  pass.source = rows_as_images(geometry, grad);
  pass.out = rows_as_images(geometry, grad_input);
  pass.factor = make_factor(plan->lists, values, &ordered);
  pass.x_line = plan->tiling.source_line;
  run_gather(pass, parallel);
}

template <typename T>
void sparse_conv2d_grad_values(const ConvGeometry& geometry, const PatternView& p,
                               MapView<const T> grad, MapView<const T> input, T* grad_values,
                               const Parallel& parallel) {
  const ConvGeometry g = rows_as_images(geometry);
  if (g.batch == 0) {
    std::fill(grad_values, grad_values + p.nnz, T(0));
    return;
  }
  if (sparse_conv2d_grad_values_in_place(g, p, grad, input, grad_values, parallel)) return;
  const auto plan = plan_for<make_weight_plan, T>(g, p, parallel);
  CorrelatePass<T> pass;
  set_tiles(*plan, g.batch, &pass);
  pass.grad_channels = g.out_channels;
  pass.source = rows_as_images(geometry, input);
  pass.grad = rows_as_images(geometry, grad);
  pass.lists = &plan->lists;
  pass.out = grad_values;
  pass.out_count = p.nnz;
  run_correlate(pass, parallel);
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
