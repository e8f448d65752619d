#include <algorithm>

#include "in_place_correlate.h"
#include "in_place_gather.h"
#include "in_place_spots.h"
#include "linear_view.h"
#include "ops.h"
#include "passes.h"
#include "plan_cache.h"

namespace fbconv {
namespace {

// A masked convolution, or its adjoint, made ready to run.
struct SparsePlan {
  Sweep sweep;
  Tiling tiling;
  Planes planes;
  RowLists lists;

  int64_t bytes() const {
    return 12 * (lists.entries + lists.rows * lists.blocks) +
           static_cast<int64_t>(sizeof(Plane)) * planes.count;
  }
};

void finish_plan(const EntryLists& entries, int64_t element_size, int64_t block_bytes, int64_t group,
                 SparsePlan* plan) {
  const Tiling& t = plan->tiling;
  require_reachable(plan->planes.count, t.plane);
  const int64_t per = planes_per_block(plan->planes.count, step_bytes(plan->sweep, t, element_size),
                                       entries.rows, entries.entries, t.vectors(), block_bytes);
  make_blocks(entries, plan->planes.count, per, t.plane, false, &plan->lists, group);
}

// What plans are made for.
struct Problem {
  const ConvGeometry& g;
  const PatternView& p;
  int64_t element_size, lanes, threads;

  PlanKey key() const { return {p.content, g, 0, 0, 0, p.nnz, element_size, lanes, threads}; }
  Workload work(int64_t source_channels, int64_t out_lists) const {
    return {g.batch, source_channels, p.nnz, 0, out_lists, element_size, lanes, threads};
  }
};

constexpr auto kAligned = {Lanes::kColumns, Lanes::kTaps, Lanes::kImages};
constexpr auto kAll = {Lanes::kColumns, Lanes::kTaps, Lanes::kImages, Lanes::kPlain};

void make_forward_plan(const Problem& b, std::initializer_list<Lanes> kinds, bool correlates,
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

void make_output_plan(const Problem& b, SparsePlan* plan) { make_forward_plan(b, kAll, false, plan); }
// Correlations multiply all lanes, so that lanes beyond a line must hold zeros.
void make_weight_plan(const Problem& b, SparsePlan* plan) { make_forward_plan(b, kAligned, true, plan); }

void make_adjoint_plan(const Problem& b, SparsePlan* plan) {
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

using MakePlan = void (*)(const Problem&, SparsePlan*);

template <MakePlan make, typename T>
std::shared_ptr<const SparsePlan> plan_for(const ConvGeometry& g, const PatternView& p,
                                           const Parallel& parallel) {
  static PlanCache<SparsePlan> cache;
  const Problem problem{g, p, sizeof(T), kernels<T>().lanes, parallel.threads};
  return cache.get(problem.key(), [&](SparsePlan* plan) { make(problem, plan); });
}

// The same on maps that are read where they lie.
struct InPlacePlan {
  InPlaceMap map;
  InPlaceTiling tiling;
  CompiledLists compiled;
  RowLists lists;
  int64_t rows;

  int64_t bytes() const {
    return compiled.bytes() + 13 * lists.entries + 4 * lists.rows * lists.blocks +
           static_cast<int64_t>(sizeof(uint16_t) * map.table.size());
  }
};

// Patterns are compiled where code is run for so many vectors of the map; else it takes longer to
// fetch it from memory than to walk lists.
constexpr int64_t kWorthCompiling = 3;
constexpr int64_t kSmallMap = 64;  // pixels
constexpr double kPackedDensity = 0.03;
constexpr int64_t kWalkedBytes = 8 * 1024;  // of a block of planes: rows come back to them at once
constexpr int64_t kBlocksAlways = 1 << 20;

bool worth_compiling(const ConvGeometry& g, int64_t element_size, int64_t lanes) {
  const int64_t vectors = (g.in_h * g.in_w + lanes - 1) / lanes * g.batch;
  return can_compile_patterns() && element_size == sizeof(float) && vectors >= kWorthCompiling;
}

enum class Pass { kOutput, kInputGradient, kWeightGradient };

void make_in_place_plan(const Problem& b, Pass pass, InPlacePlan* plan) {
  TapTable taps;
  EntryLists entries;
  const bool adjoint = pass == Pass::kInputGradient;
  const bool correlates = pass == Pass::kWeightGradient;
  make_in_place_taps(b.g, adjoint, b.lanes, &taps, &plan->map);
  if (adjoint) {
    make_adjoint_lists(b.g, b.p, 1, taps, &entries);
  } else {
    make_forward_lists(b.g, b.p, taps, &entries);
  }
  const InPlaceMap& map = plan->map;
  const int64_t planes = adjoint ? b.g.out_channels : b.g.in_channels;
  plan->rows = entries.rows;
  plan->tiling = tile_in_place(map, b.g.batch, b.g.in_channels + b.g.out_channels, b.element_size,
                               b.threads);
  const int64_t x_pitch = plan->tiling.source_pitch(map);
  const bool compile = !correlates && worth_compiling(b.g, b.element_size, b.lanes);
  if (compile && plan->compiled.compile({&entries, planes, x_pitch, map.pixels, planes,
                                         entries.rows, false, map.masks, map.partial()})) {
    return;
  }
  require_reachable(planes, x_pitch);
  const int64_t spots = correlates ? kCorrelatedSpots : std::min(map.vectors, kWalkedSpots);
  const int64_t per = planes_per_block(planes, spots * map.lanes * b.element_size, entries.rows,
                                       entries.entries, kBlocksAlways,
                                       correlates ? kCorrelateBytes : kWalkedBytes);
  make_blocks(entries, planes, per, x_pitch, false, &plan->lists, correlates ? b.lanes : 1);
  fill_open_masks(map, &plan->lists);
}

template <Pass pass, typename T>
std::shared_ptr<const InPlacePlan> in_place_plan(const ConvGeometry& g, const PatternView& p,
                                                 const Parallel& parallel) {
  static PlanCache<InPlacePlan> cache;
  const Problem problem{g, p, sizeof(T), kernels<T>().lanes, parallel.threads};
  return cache.get(problem.key(),
                   [&](InPlacePlan* plan) { make_in_place_plan(problem, pass, plan); });
}

// Packed copies are aligned, which pays where many entries read them.
bool is_sparse(const ConvGeometry& g, int64_t nnz) {
  return nnz < kPackedDensity * static_cast<double>(g.out_channels * g.group_inputs() * g.taps());
}

// Whether a gather over these maps is to be done in place: compiled, or on few entries.
template <typename T>
bool gathers_in_place(const ConvGeometry& g, int64_t nnz, const MapView<const T>& source,
                      const MapView<T>& out) {
  if (!suits_in_place(g, source, read_only(out))) return false;
  return is_sparse(g, nnz) || worth_compiling(g, sizeof(T), kernels<T>().lanes);
}

// Lanes of images need no masks: they suit products over large batches of small maps better.
template <typename T>
bool correlates_in_place(const ConvGeometry& g, int64_t nnz, const MapView<const T>& source,
                         const MapView<const T>& grad) {
  const bool many_small = g.batch >= kernels<T>().lanes && g.in_h * g.in_w < kSmallMap;
  return !many_small && is_sparse(g, nnz) && suits_in_place(g, source, grad);
}

template <Pass kind, typename T>
void gather_in_place(const ConvGeometry& g, const PatternView& p, MapView<const T> source,
                     const T* values, const T* bias, MapView<T> out, const Parallel& parallel) {
  const auto plan = in_place_plan<kind, T>(g, p, parallel);
  InPlaceGather<T> pass;
  pass.map = &plan->map;
  pass.tiling = plan->tiling;
  pass.batch = g.batch;
  pass.rows = plan->rows;
  pass.source_channels = kind == Pass::kInputGradient ? g.out_channels : g.in_channels;
  pass.source = source;
  pass.out = out;
  pass.factor = {plan->compiled.ready() ? &plan->compiled : nullptr, &plan->lists, values};
  pass.bias = bias;
  run_in_place(pass, parallel);
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
  if (gathers_in_place(g, p.nnz, input, output)) {
    return gather_in_place<Pass::kOutput>(g, p, input, values, bias, output, parallel);
  }
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
  if (gathers_in_place(g, p.nnz, grad, grad_input)) {
    const T* no_bias = nullptr;
    return gather_in_place<Pass::kInputGradient>(g, p, grad, values, no_bias, grad_input, parallel);
  }
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
  if (correlates_in_place(g, p.nnz, input, grad)) {
    const auto plan = in_place_plan<Pass::kWeightGradient, T>(g, p, parallel);
    InPlaceCorrelate<T> pass;
    pass.map = &plan->map;
    pass.tiling = plan->tiling;
    pass.batch = g.batch;
    pass.source_channels = g.in_channels;
    pass.source = input;
    pass.grad = grad;
    pass.lists = &plan->lists;
    pass.out = grad_values;
    return run_in_place(pass, parallel);
  }
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
