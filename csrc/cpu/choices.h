// Which way a pass goes.  The planner asks the same questions.
#pragma once

#include "../core/in_place.h"
#include "kernels.h"
#include "pattern_jit.h"

namespace fbconv {

// Whether maps of this geometry, if they lie flat, can be read in place, and few lanes stay empty.
template <typename T>
bool fits_in_place(const ConvGeometry& g) {
  const int64_t lanes = kernels<T>().lanes, pixels = g.in_h * g.in_w;
  const bool filled = 4 * pixels >= 3 * ((pixels + lanes - 1) / lanes * lanes);
  return kernels<T>().masked_gather != nullptr && filled && g.taps() < kMostMasks &&
         reads_in_place(g);
}

// Patterns are compiled where code is run for so many vectors of the map; else it takes longer to
// fetch it from memory than to walk lists.
inline bool worth_compiling(const ConvGeometry& g, int64_t element_size, int64_t lanes) {
  constexpr int64_t kLeastVectors = 3;
  const int64_t vectors = (g.in_h * g.in_w + lanes - 1) / lanes * g.batch;
  return can_compile_patterns() && element_size == sizeof(float) && vectors >= kLeastVectors;
}

// Packed copies are aligned, which pays where many entries read them.
inline bool reads_few(const ConvGeometry& g, int64_t nnz) {
  constexpr double kPackedDensity = 0.03;
  return nnz < kPackedDensity * static_cast<double>(g.out_channels * g.group_inputs() * g.taps());
}

// Whether a gather goes in place: compiled, or on few entries.
template <typename T>
bool gathers_in_place(const ConvGeometry& g, int64_t nnz) {
  return fits_in_place<T>(g) &&
         (reads_few(g, nnz) || worth_compiling(g, sizeof(T), kernels<T>().lanes));
}

// Lanes of images need no masks: they suit products over large batches of small maps better.
template <typename T>
bool correlates_in_place(const ConvGeometry& g, int64_t nnz) {
  constexpr int64_t kSmallMap = 64;
  const bool many_small = g.batch >= kernels<T>().lanes && g.in_h * g.in_w < kSmallMap;
  return !many_small && reads_few(g, nnz) && fits_in_place<T>(g);
}

}  // namespace fbconv
