// What plans of filter-basis passes are made for.
#pragma once

#include "../core/tiling.h"
#include "kernels.h"
#include "plan_cache.h"

namespace fbconv {

struct BasisProblem {
  const ConvGeometry& g;
  const BasisLayout& layout;
  const PatternView& p;
  int64_t element_size, lanes, threads;

  PlanKey key() const {
    return {p.content,    g,     layout.elements, layout.bases, layout.per_output, p.nnz,
            element_size, lanes, threads};
  }
  Workload work(int64_t source_channels, int64_t entries, int64_t columns,
                int64_t out_lists) const {
    return {g.batch, source_channels, entries, columns, out_lists, element_size, lanes, threads};
  }
};

template <typename T>
BasisProblem basis_problem(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                           int64_t threads) {
  return {g, layout, p, sizeof(T), kernels<T>().lanes, threads};
}

}  // namespace fbconv
