#include "fb_conv2d_in_place.h"

#include <algorithm>
#include <limits>

#include "../core/basis_lists.h"
#include "basis_plan.h"
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
    return first.bytes() + second.bytes() + 13 * lists.entries + 4 * lists.rows * lists.blocks +
           static_cast<int64_t>(sizeof(uint16_t) * map.table.size());
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
  const int64_t least = std::clamp(worth, kLeastColumns, kInnerBytes / (kVectorBytes * kLeastSpots));
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

bool fits_memory(const Plan& plan) {
  return plan.columns * plan.pitch <= std::numeric_limits<int32_t>::max() / 4;
}

// Z = taps * X, Y = mix * Z.
void make_forward(const BasisProblem& b, Plan* plan) {
  BasisColumns columns;
  EntryLists taps, mix;
  TapTable table;
  make_input_columns(b.g, b.layout, b.p, &columns);
  make_in_place_taps(b.g, false, b.lanes, &table, &plan->map);
  make_column_taps(b.g, columns, table, &taps);
  make_mix(b.p, columns, &mix);
  plan->rows = mix.rows;
  plan->columns = columns.count;
  choose_block(columns.count, mix.rows, mix.entries, plan);
  choose_tiles(b, gather_spots(*plan), plan);
  const int64_t x_pitch = plan->tiling.source_pitch(plan->map);
  plan->ready =
      fits_memory(*plan) &&
      plan->first.compile({&taps, b.g.in_channels, x_pitch, plan->pitch, b.g.in_channels,
                           plan->block, false, plan->map.masks, false, true}) &&
      plan->second.compile({&mix, columns.count, plan->pitch, plan->map.pixels, plan->block,
                            mix.rows, true, plan->map.masks, plan->map.partial()});
}

// E = taps^T * dY, dX = mix^T * E.
void make_adjoint(const BasisProblem& b, Plan* plan) {
  BasisColumns columns;
  EntryLists taps, mix;
  TapTable table;
  make_output_columns(b.g, b.layout, b.p, &columns);
  make_in_place_taps(b.g, true, b.lanes, &table, &plan->map);
  make_column_taps_adjoint(b.g, columns, 1, table, &taps);
  make_mix_adjoint_outputs(b.g, b.p, columns, 1, &mix);
  plan->rows = mix.rows;
  plan->columns = columns.count;
  choose_block(columns.count, mix.rows, mix.entries, plan);
  choose_tiles(b, gather_spots(*plan), plan);
  const int64_t x_pitch = plan->tiling.source_pitch(plan->map);
  plan->ready =
      fits_memory(*plan) &&
      plan->first.compile({&taps, b.g.out_channels, x_pitch, plan->pitch, b.g.out_channels,
                           plan->block, false, plan->map.masks, false, true}) &&
      plan->second.compile({&mix, columns.count, plan->pitch, plan->map.pixels, plan->block,
                            mix.rows, true, plan->map.masks, plan->map.partial()});
}

// Z = taps * X, dlam = <dY, Z>.
void make_values_gradient(const BasisProblem& b, Plan* plan) {
  BasisColumns columns;
  EntryLists taps, mix;
  TapTable table;
  make_input_columns(b.g, b.layout, b.p, &columns);
  make_in_place_taps(b.g, false, b.lanes, &table, &plan->map);
  make_column_taps(b.g, columns, table, &taps);
  make_mix(b.p, columns, &mix);
  plan->rows = mix.rows;
  plan->columns = columns.count;
  plan->block = equal_part(columns.count, kInnerBytes / (kVectorBytes * kCorrelatedSpots));
  choose_tiles(b, kCorrelatedSpots, plan);
  const int64_t x_pitch = plan->tiling.source_pitch(plan->map);
  plan->ready = fits_memory(*plan) &&
                plan->first.compile({&taps, b.g.in_channels, x_pitch, plan->pitch, b.g.in_channels,
                                     plan->block, false, plan->map.masks, false, true});
  make_blocks(mix, columns.count, plan->block, plan->pitch, true, &plan->lists);
  fill_open_masks(plan->map, &plan->lists);
}

// dZ = mix^T * dY, dg = <dZ, shifted X>.
void make_basis_gradient(const BasisProblem& b, Plan* plan) {
  BasisColumns columns;
  EntryLists taps, mix;
  TapTable table, grad_table;
  make_input_columns(b.g, b.layout, b.p, &columns);
  if (rows_are_vectors(b.g, b.lanes)) {
    make_padded_taps(b.g, false, b.lanes, &table, &plan->map);
  } else {
    make_in_place_taps(b.g, false, b.lanes, &table, &plan->map);
  }
  make_column_taps(b.g, columns, table, &taps);
  make_mix_adjoint(b.p, columns, &mix);
  plan->rows = mix.rows;
  plan->columns = columns.count;
  plan->block = equal_part(columns.count, 2 * kLeastColumns);
  choose_tiles(b, kMostInnerSpots, plan);
  // The gradient is read without shifts, line by line as the source.
  plan->grad_map = plan->map;
  plan->grad_map.source_line = plan->map.line_pixels();
  plan->grad_map.reach = plan->grad_map.reach_lines = 0;
  plan->grad_tiling = plan->tiling;
  plan->grad_tiling.copy_image = plan->tiling.lines * plan->map.line_pixels();
  plan->grad_tiling.copy_pitch =
      odd_pitch(plan->tiling.images * plan->grad_tiling.copy_image, b.lanes);
  const int64_t grad_pitch = plan->grad_tiling.copy_pitch;
  plan->ready = fits_memory(*plan) &&
                plan->first.compile({&mix, b.g.out_channels, grad_pitch, plan->pitch,
                                     b.g.out_channels, plan->block, false, plan->map.masks, false,
                                     true});
  make_blocks(taps, b.g.in_channels, b.g.in_channels, plan->tiling.source_pitch(plan->map), false,
              &plan->lists);
  find_runs(&plan->lists);
  fill_open_masks(plan->map, &plan->lists);
}

using MakePlan = void (*)(const BasisProblem&, Plan*);

template <MakePlan make>
std::shared_ptr<const Plan> plan_for(const ConvGeometry& g, const BasisLayout& layout,
                                     const PatternView& p, const MapView<const float>& a,
                                     const MapView<const float>& b, const Parallel& parallel) {
  if (!can_compile_patterns() || p.nnz == 0 || !suits_in_place(g, a, b)) return nullptr;
  static PlanCache<Plan> cache;
  const BasisProblem problem = basis_problem<float>(g, layout, p, parallel.threads);
  auto plan = cache.get(problem.key(), [&](Plan* made) { make(problem, made); });
  return plan->ready ? plan : nullptr;
}

InPlaceGather<float> outer_pass(const Plan& plan, const ConvGeometry& g, int64_t source_channels) {
  InPlaceGather<float> pass;
  pass.map = &plan.map;
  pass.tiling = plan.tiling;
  pass.batch = g.batch;
  pass.rows = plan.rows;
  pass.source_channels = source_channels;
  return pass;
}

}  // namespace

bool fb_conv2d_in_place(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                        MapView<const float> input, const float* basis, const float* values,
                        const float* bias, MapView<float> output, const Parallel& parallel) {
  const auto plan = plan_for<make_forward>(g, layout, p, input, read_only(output), parallel);
  if (plan == nullptr) return false;
  InPlaceProduct pass;
  pass.outer = outer_pass(*plan, g, g.in_channels);
  pass.outer.source = input;
  pass.outer.out = output;
  pass.outer.bias = bias;
  pass.outer.factor = {&plan->second, nullptr, values};
  pass.inner = {&plan->first, plan->columns, plan->pitch, basis};
  run_in_place(pass, parallel);
  return true;
}

bool fb_conv2d_grad_input_in_place(const ConvGeometry& g, const BasisLayout& layout,
                                   const PatternView& p, MapView<const float> grad,
                                   const float* basis, const float* values,
                                   MapView<float> grad_input, const Parallel& parallel) {
  const auto plan = plan_for<make_adjoint>(g, layout, p, grad, read_only(grad_input), parallel);
  if (plan == nullptr) return false;
  InPlaceProduct pass;
  pass.outer = outer_pass(*plan, g, g.out_channels);
  pass.outer.source = grad;
  pass.outer.out = grad_input;
  pass.outer.factor = {&plan->second, nullptr, values};
  pass.inner = {&plan->first, plan->columns, plan->pitch, basis};
  run_in_place(pass, parallel);
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
