// What plans of masked passes are made for.
#pragma once

#include "../core/tiling.h"
#include "kernels.h"
#include "plan_cache.h"

namespace fbconv {

struct SparseProblem {
  const ConvGeometry& g;
  const PatternView& p;
  int64_t element_size, lanes, threads;

  PlanKey key() const { return {p.content, g, 0, 0, 0, p.nnz, element_size, lanes, threads}; }
  Workload work(int64_t source_channels, int64_t out_lists) const {
    return {g.batch, source_channels, p.nnz, 0, out_lists, element_size, lanes, threads};
  }
};

template <typename T>
SparseProblem sparse_problem(const ConvGeometry& g, const PatternView& p, int64_t threads) {
  return {g, p, sizeof(T), kernels<T>().lanes, threads};
}

}  // namespace fbconv
