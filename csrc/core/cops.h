// COPS with one control score: the mask of at most `keep` weights with the least target score whose
// control score stays within kappa (Wimmer et al., "COPS: Controlled Pruning Before Training
// Starts": algorithm 1 and theorem 1).
//
//   min <s0, m>   subject to   <s1, m> <= kappa,  |m|_0 <= keep,  m in {0, 1}^size
//
// Scores follow the paper: lower = keep.  They need no scaling; everything here is in their units.
#pragma once

#include <cstdint>

#include "parallel.h"

namespace fbconv {

struct CopsScale {
  double target_norm, control_norm;               // sums of absolute values
  int64_t target_not_finite, control_not_finite;  // where one is not 0, nothing else is computed
  double control_min;                             // the lowest control score of any mask
  double multiplier;  // where both scores count alike, as far as their norms say
};

// A and B are float or double.  Needs one byte for each weight beside the scores.
template <typename A, typename B>
CopsScale cops_scale(const A* target, const B* control, int64_t size, int64_t keep,
                     const Parallel& parallel);

template <typename A, typename B>
struct CopsProblem {
  const A* target;   // all finite
  const B* control;  // all finite
  int64_t size;      // less than 2^32
  int64_t keep;      // 0 <= keep <= size
  double kappa;
  // Sums of weights that are in the mask whatever happens here, and not among the `size`.
  double target_base, control_base;
  double scale;  // positive: a multiplier of ordinary size, from which to search in both directions
};

// The neighbouring masks m+ (meets the constraint) and m- (does not, or is m+): they differ in one
// weight, or in one weight each, and S0(m-) <= LP optimum <= best 0/1 mask <= S0(m+).
struct CopsSolution {
  bool
      feasible;  // else: control_plus is the lowest that can be reached, and the rest means nothing
  double multiplier, dual;  // dual: the LP optimum, = g(multiplier)
  double target_plus, control_plus, target_minus, control_minus;
  int64_t kept, steps;  // of m+; selections over what was undecided
};

// Writes m+ to mask (size bytes of 0 or 1; nothing of use if infeasible).  Ties go to the lowest
// index.  The result does not depend on the number of threads.
//
// Work: O(size), for ordinary scores one pass over all of them and little more.  Memory beside the
// mask, which serves as working space: for each weight left undecided by that pass, ordinarily a
// few per cent, a copy (4 bytes and its two scores) and 16 bytes.  At worst, where no more than a
// quarter can be decided at a time, less than 40 bytes for each weight with float scores.
template <typename A, typename B>
CopsSolution cops_solve(const CopsProblem<A, B>& problem, uint8_t* mask, const Parallel& parallel);

}  // namespace fbconv
