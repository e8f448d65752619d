#include "sparse_conv2d_in_place.h"

#include "choices.h"
#include "in_place_correlate.h"
#include "in_place_gather.h"
#include "in_place_spots.h"
#include "sparse_plan.h"

namespace fbconv {
namespace {

// A pass made ready to run: its lists compiled, or to be walked.
struct InPlacePlan {
  InPlaceMap map;
  InPlaceTiling tiling;
  CompiledLists compiled;
  RowLists lists;
  int64_t rows;

  int64_t bytes() const { return map.bytes() + compiled.bytes() + lists.bytes(); }
};

constexpr int64_t kWalkedBytes = 8 * 1024;  // of a block of planes: rows come back to them at once
constexpr int64_t kManyVectors = 1 << 20;   // entries of a block are in their order from the start

enum class Pass { kOutput, kInputGradient, kWeightGradient };

void make_in_place_plan(const SparseProblem& b, Pass pass, InPlacePlan* plan) {
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
  plan->tiling =
      tile_in_place(map, b.g.batch, b.g.in_channels + b.g.out_channels, b.element_size, b.threads);
  const int64_t x_pitch = plan->tiling.source_pitch(map);
  const bool compile = !correlates && worth_compiling(b.g, b.element_size, b.lanes);
  if (compile && plan->compiled.compile({&entries, planes, x_pitch, map.pixels, planes,
                                         entries.rows, false, map.masks, map.partial()})) {
    return;
  }
  require_reachable(planes, x_pitch);
  const int64_t spots = correlates ? kCorrelatedSpots : std::min(map.vectors, kWalkedSpots);
  const int64_t per =
      planes_per_block(planes, spots * map.lanes * b.element_size, entries.rows, entries.entries,
                       kManyVectors, correlates ? kCorrelateBytes : kWalkedBytes);
  make_blocks(entries, planes, per, x_pitch, false, &plan->lists, correlates ? b.lanes : 1);
  fill_open_masks(map, &plan->lists);
}

template <Pass pass, typename T>
std::shared_ptr<const InPlacePlan> in_place_plan(const ConvGeometry& g, const PatternView& p,
                                                 const Parallel& parallel) {
  static PlanCache<InPlacePlan> cache;
  const SparseProblem problem = sparse_problem<T>(g, p, parallel.threads);
  return cache.get(problem.key(),
                   [&](InPlacePlan* plan) { make_in_place_plan(problem, pass, plan); });
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

}  // namespace

template <typename T>
bool sparse_conv2d_in_place(const ConvGeometry& g, const PatternView& p, MapView<const T> input,
                            const T* values, const T* bias, MapView<T> output,
                            const Parallel& parallel) {
  if (!gathers_in_place<T>(g, p.nnz) || !lies_flat(g, input) || !lies_flat(g, output)) return false;
  gather_in_place<Pass::kOutput>(g, p, input, values, bias, output, parallel);
  return true;
}

template <typename T>
bool sparse_conv2d_grad_input_in_place(const ConvGeometry& g, const PatternView& p,
                                       MapView<const T> grad, const T* values,
                                       MapView<T> grad_input, const Parallel& parallel) {
  if (!gathers_in_place<T>(g, p.nnz) || !lies_flat(g, grad) || !lies_flat(g, grad_input)) {
    return false;
  }
  const T* no_bias = nullptr;
  gather_in_place<Pass::kInputGradient>(g, p, grad, values, no_bias, grad_input, parallel);
  return true;
}

template <typename T>
bool sparse_conv2d_grad_values_in_place(const ConvGeometry& g, const PatternView& p,
                                        MapView<const T> grad, MapView<const T> input,
                                        T* grad_values, const Parallel& parallel) {
  if (!correlates_in_place<T>(g, p.nnz) || !lies_flat(g, input) || !lies_flat(g, grad)) {
    return false;
  }
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
  run_in_place(pass, parallel);
  return true;
}

#define FBCONV_INSTANTIATE(T)                                                                  \
  template bool sparse_conv2d_in_place<T>(const ConvGeometry&, const PatternView&,             \
                                          MapView<const T>, const T*, const T*, MapView<T>,    \
                                          const Parallel&);                                    \
  template bool sparse_conv2d_grad_input_in_place<T>(const ConvGeometry&, const PatternView&,  \
                                                     MapView<const T>, const T*, MapView<T>,   \
                                                     const Parallel&);                         \
  template bool sparse_conv2d_grad_values_in_place<T>(const ConvGeometry&, const PatternView&, \
                                                      MapView<const T>, MapView<const T>, T*,  \
                                                      const Parallel&);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
