// Gathers over maps that are read where they lie (core/in_place.h): nothing is unpacked, and packed
// only to lie better.  The work is split the same way for the same shapes and thread count.
#pragma once

#include "in_place_inner.h"

namespace fbconv {

// Row lists with what they multiply: compiled where that is ready, else walked.
template <typename T>
struct InPlaceFactor {
  const CompiledLists* compiled = nullptr;
  const RowLists* lists = nullptr;
  const T* values = nullptr;
};

// out = factor * source.
template <typename T>
struct InPlaceGather {
  const InPlaceMap* map = nullptr;
  InPlaceTiling tiling = {};
  int64_t batch = 0, rows = 0, source_channels = 0;
  MapView<const T> source = {};
  MapView<T> out = {};
  InPlaceFactor<T> factor = {};
  const T* bias = nullptr;
};
template <typename T>
void run_in_place(const InPlaceGather<T>& pass, const Parallel& parallel);

// out = factor * (inner * source), compiled.
struct InPlaceProduct {
  InPlaceGather<float> outer = {};
  InPlaceInner inner = {};
};
void run_in_place(const InPlaceProduct& pass, const Parallel& parallel);

}  // namespace fbconv
