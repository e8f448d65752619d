// A convolution and its adjoint as the same thing: a sweep over a grid of positions, where every
// grid point gathers from a small neighbourhood of the source.
//
// Strides become phases.  Source element i of phase a is the map's element step * i + a - shift, so
// a tap always is "one phase, one whole shift", whatever the stride, and a flat tile can serve all
// positions of a row list with one offset per nonzero.
#pragma once

#include "geometry.h"

namespace fbconv {

struct Axis {
  int64_t step, phases, shift, extent;

  int64_t coordinate(int64_t i, int64_t phase) const { return step * i + phase - shift; }
  // The i in [begin, end) whose coordinate lies inside the map are [first, last).
  void clip(int64_t phase, int64_t begin, int64_t end, int64_t* first, int64_t* last) const;
};

struct SweepAxis {
  Axis source, out;
  int64_t first, grid;  // grid points are first .. first + grid - 1
  int64_t lead, reach;  // a grid point reads source elements i - lead .. i - lead + reach
  int64_t copies;       // different (phase, shift) pairs that taps have
};

struct Sweep {
  SweepAxis h, w;

  int64_t source_phases() const { return h.source.phases * w.source.phases; }
  int64_t out_phases() const { return h.out.phases * w.out.phases; }
};

Sweep forward_sweep(const ConvGeometry& g);  // out = convolution output, source = its input
Sweep adjoint_sweep(const ConvGeometry& g);  // out = input gradient, source = output gradient

}  // namespace fbconv
