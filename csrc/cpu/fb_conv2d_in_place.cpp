#include "fb_conv2d_in_place.h"

#include <algorithm>
#include <limits>

#include "../core/basis_lists.h"
#include "basis_plan.h"
#include "choices.h"
#include "in_place_correlate.h"
#include "in_place_gather.h"
#include "in_place_spots.h"

namespace fbconv {
namespace {

// The two factors of a pass.  Of the first factor's rows a block of columns exists at a time, for a
// tile's vectors.
struct Plan {
  InPlaceMap map, grad_map;
  InPlaceTiling tiling, grad_tiling;
  int64_t rows = 0, columns = 0, block = 0, pitch = 0;
  CompiledLists first, second;
  RowLists lists;  // of the products in parameter gradients
  bool ready = false;

  int64_t bytes() const {
    return map.bytes() + grad_map.bytes() + first.bytes() + second.bytes() + lists.bytes();
  }
};

// Bytes of inner rows held at once: they share the second cache with the code and the maps.
constexpr int64_t kInnerBytes = 256 * 1024;
constexpr int64_t kLeastSpots = 4, kMostInnerSpots = 16;
constexpr int64_t kEntriesPerSum = 40, kLeastColumns = 54;
constexpr int64_t kVectorBytes = 64;

// The size of almost equal parts of `count`, about `size` each.
int64_t equal_part(int64_t count, int64_t size) {
  const int64_t parts = std::max<int64_t>(1, count / size);
  return std::max<int64_t>(1, (count + parts - 1) / parts);
}

// Columns that are brought into being together: enough that the outer rows' entries outnumber the
// sums they load and store.
void choose_block(int64_t columns, int64_t outer_rows, int64_t entries, Plan* plan) {
  const int64_t worth = kEntriesPerSum * outer_rows * columns / std::max<int64_t>(1, entries);
  const int64_t least =
      std::clamp(worth, kLeastColumns, kInnerBytes / (kVectorBytes * kLeastSpots));
  plan->block = equal_part(columns, least);
}

int64_t gather_spots(const Plan& plan) {
  return std::clamp(kInnerBytes / (kVectorBytes * plan.block), kLeastSpots, kMostInnerSpots);
}

void choose_tiles(const BasisProblem& b, int64_t spots, Plan* plan) {
  plan->tiling = tile_in_place(plan->map, b.g.batch, b.g.in_channels + b.g.out_channels,
                               b.element_size, b.threads, spots);
  plan->pitch = (plan->tiling.spots(plan->map) | 1) * plan->map.lanes;
}

// The lists of a pass's two factors, and the columns between them.
struct Factors {
  BasisColumns columns;
  EntryLists taps, mix;
};

// Both factors of Z = taps * X, Y = mix * Z; or of its adjoint, E = taps^T * dY, dX = mix^T * E.
void make_factors(const BasisProblem& b, bool adjoint, Factors* f, Plan* plan) {
  TapTable table;
  make_in_place_taps(b.g, adjoint, b.lanes, &table, &plan->map);
  if (adjoint) {
    make_output_columns(b.g, b.layout, b.p, &f->columns);
    make_column_taps_adjoint(b.g, f->columns, 1, table, &f->taps);
    make_mix_adjoint_outputs(b.g, b.p, f->columns, 1, &f->mix);
  } else {
    make_input_columns(b.g, b.layout, b.p, &f->columns);
    make_column_taps(b.g, f->columns, table, &f->taps);
    make_mix(b.p, f->columns, &f->mix);
  }
  plan->rows = f->mix.rows;
  plan->columns = f->columns.count;
}

// Whether offsets over so many planes have room in lists and in code.
bool within_reach(int64_t planes, int64_t pitch) {
  constexpr int64_t kMostElements = std::numeric_limits<int32_t>::max() / 4;
  return planes <= kMostElements / pitch;
}

// The inner rows, of planes `x_pitch` apart.
bool compile_first(const EntryLists& entries, int64_t planes, int64_t x_pitch, Plan* plan) {
  return within_reach(plan->columns, plan->pitch) && within_reach(planes, x_pitch) &&
         plan->first.compile({&entries, planes, x_pitch, plan->pitch, planes, plan->block, false,
                              plan->map.masks, false, true});
}

template <bool adjoint>
void make_product(const BasisProblem& b, Plan* plan) {
  Factors f;
  make_factors(b, adjoint, &f, plan);
  choose_block(plan->columns, plan->rows, f.mix.entries, plan);
  choose_tiles(b, gather_spots(*plan), plan);
  const InPlaceMap& map = plan->map;
  const int64_t planes = adjoint ? b.g.out_channels : b.g.in_channels;
  plan->ready = compile_first(f.taps, planes, plan->tiling.source_pitch(map), plan) &&
                plan->second.compile({&f.mix, plan->columns, plan->pitch, map.pixels, plan->block,
                                      plan->rows, true, map.masks, map.partial()});
}

// Z = taps * X, dlam = <dY, Z>.
void make_values_gradient(const BasisProblem& b, Plan* plan) {
  Factors f;
  make_factors(b, false, &f, plan);
  plan->block = equal_part(plan->columns, kInnerBytes / (kVectorBytes * kCorrelatedSpots));
  choose_tiles(b, kCorrelatedSpots, plan);
  plan->ready = compile_first(f.taps, b.g.in_channels, plan->tiling.source_pitch(plan->map), plan);
  make_blocks(f.mix, plan->columns, plan->block, plan->pitch, true, &plan->lists);
  fill_open_masks(plan->map, &plan->lists);
}

// The gradient's copy: without shifts, line by line as the source is read.
void choose_grad_tiles(Plan* plan) {
  plan->grad_map = plan->map;
  plan->grad_map.source_line = plan->map.line_pixels();
  plan->grad_map.reach = plan->grad_map.reach_lines = 0;
  InPlaceTiling& t = plan->grad_tiling = plan->tiling;
  t.copy_image = t.lines * plan->map.line_pixels();
  t.copy_pitch = odd_pitch(t.images * t.copy_image, plan->map.lanes);
}

// dZ = mix^T * dY, dg = <dZ, shifted X>.
void make_basis_gradient(const BasisProblem& b, Plan* plan) {
  Factors f;
  TapTable table;
  make_input_columns(b.g, b.layout, b.p, &f.columns);
  if (rows_are_vectors(b.g, b.lanes)) {
    make_padded_taps(b.g, false, b.lanes, &table, &plan->map);
  } else {
    make_in_place_taps(b.g, false, b.lanes, &table, &plan->map);
  }
  make_column_taps(b.g, f.columns, table, &f.taps);
  make_mix_adjoint(b.p, f.columns, &f.mix);
  plan->rows = f.mix.rows;
  plan->columns = f.columns.count;
  plan->block = equal_part(plan->columns, 2 * kLeastColumns);
  choose_tiles(b, kMostInnerSpots, plan);
  choose_grad_tiles(plan);
  const int64_t x_pitch = plan->tiling.source_pitch(plan->map);
  plan->ready = within_reach(b.g.in_channels, x_pitch) &&
                compile_first(f.mix, b.g.out_channels, plan->grad_tiling.copy_pitch, plan);
  if (!plan->ready) return;
  make_blocks(f.taps, b.g.in_channels, b.g.in_channels, x_pitch, false, &plan->lists);
  find_runs(&plan->lists);
  fill_open_masks(plan->map, &plan->lists);
}

using MakePlan = void (*)(const BasisProblem&, Plan*);

template <MakePlan make, typename A, typename B>
std::shared_ptr<const Plan> plan_for(const ConvGeometry& g, const BasisLayout& layout,
                                     const PatternView& p, const MapView<A>& a, const MapView<B>& b,
                                     const Parallel& parallel) {
  if (!can_compile_patterns() || p.nnz == 0 || !fits_in_place<float>(g) || !lies_flat(g, a) ||
      !lies_flat(g, b)) {
    return nullptr;
  }
  static PlanCache<Plan> cache;
  const BasisProblem problem = basis_problem<float>(g, layout, p, parallel.threads);
  auto plan = cache.get(problem.key(), [&](Plan* made) { make(problem, made); });
  return plan->ready ? plan : nullptr;
}

void run_product(const Plan& plan, const ConvGeometry& g, int64_t source_channels,
                 MapView<const float> source, const float* basis, const float* values,
                 const float* bias, MapView<float> out, const Parallel& parallel) {
  InPlaceProduct pass;
  pass.outer.map = &plan.map;
  pass.outer.tiling = plan.tiling;
  pass.outer.batch = g.batch;
  pass.outer.rows = plan.rows;
  pass.outer.source_channels = source_channels;
  pass.outer.source = source;
  pass.outer.out = out;
  pass.outer.factor = {&plan.second, nullptr, values};
  pass.outer.bias = bias;
  pass.inner = {&plan.first, plan.columns, plan.pitch, basis};
  run_in_place(pass, parallel);
}

}  // namespace

bool fb_conv2d_in_place(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                        MapView<const float> input, const float* basis, const float* values,
                        const float* bias, MapView<float> output, const Parallel& parallel) {
  const auto plan = plan_for<make_product<false>>(g, layout, p, input, output, parallel);
  if (plan == nullptr) return false;
  run_product(*plan, g, g.in_channels, input, basis, values, bias, output, parallel);
  return true;
}

bool fb_conv2d_grad_input_in_place(const ConvGeometry& g, const BasisLayout& layout,
                                   const PatternView& p, MapView<const float> grad,
                                   const float* basis, const float* values,
                                   MapView<float> grad_input, const Parallel& parallel) {
  const auto plan = plan_for<make_product<true>>(g, layout, p, grad, grad_input, parallel);
  if (plan == nullptr) return false;
  run_product(*plan, g, g.out_channels, grad, basis, values, nullptr, grad_input, parallel);
  return true;
}

bool fb_conv2d_grad_basis_in_place(const ConvGeometry& g, const BasisLayout& layout,
                                   const PatternView& p, MapView<const float> grad,
                                   MapView<const float> input, const float* values,
                                   float* grad_basis, const Parallel& parallel) {
  const auto plan = plan_for<make_basis_gradient>(g, layout, p, grad, input, parallel);
  if (plan == nullptr) return false;
  InPlaceBasisCorrelate pass;
  pass.map = &plan->map;
  pass.grad_map = &plan->grad_map;
  pass.tiling = plan->tiling;
  pass.grad_tiling = plan->grad_tiling;
  pass.grad_channels = g.out_channels;
  pass.batch = g.batch;
  pass.source_channels = g.in_channels;
  pass.source = input;
  pass.grad = grad;
  pass.lists = &plan->lists;
  pass.inner = {&plan->first, plan->columns, plan->pitch, values};
  pass.block = plan->block;
  pass.out = grad_basis;
  pass.out_count = layout.bases * layout.elements * g.taps();
  run_in_place(pass, parallel);
  return true;
}

bool fb_conv2d_grad_values_in_place(const ConvGeometry& g, const BasisLayout& layout,
                                    const PatternView& p, MapView<const float> grad,
                                    MapView<const float> input, const float* basis,
                                    float* grad_values, const Parallel& parallel) {
  const auto plan = plan_for<make_values_gradient>(g, layout, p, grad, input, parallel);
  if (plan == nullptr) return false;
  InPlaceCorrelate<float> pass;
  pass.map = &plan->map;
  pass.tiling = plan->tiling;
  pass.batch = g.batch;
  pass.source_channels = g.in_channels;
  pass.source = input;
  pass.grad = grad;
  pass.lists = &plan->lists;
  pass.inner = {&plan->first, plan->columns, plan->pitch, basis};
  pass.out = grad_values;
  run_in_place(pass, parallel);
  return true;
}

}  // namespace fbconv
