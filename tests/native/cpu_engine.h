// The CPU operators as an engine of op_suite.h, on the instruction set that FBCONV_CPU_CAPABILITY
// asks for.
#pragma once

#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cpu/ops.h"
#include "op_suite.h"

namespace fbconv::test {

struct CpuEngine {
  Parallel parallel;

#define FBCONV_WITH_PARALLEL(name)                 \
  template <typename T, typename... Arguments>     \
  void name(const Arguments&... arguments) const { \
    fbconv::name<T>(arguments..., parallel);       \
  }
  FBCONV_WITH_PARALLEL(sparse_conv2d)
  FBCONV_WITH_PARALLEL(sparse_conv2d_grad_input)
  FBCONV_WITH_PARALLEL(sparse_conv2d_grad_values)
  FBCONV_WITH_PARALLEL(fb_conv2d)
  FBCONV_WITH_PARALLEL(fb_conv2d_grad_input)
  FBCONV_WITH_PARALLEL(fb_conv2d_grad_basis)
  FBCONV_WITH_PARALLEL(fb_conv2d_grad_values)
  FBCONV_WITH_PARALLEL(embed)
  FBCONV_WITH_PARALLEL(gather_values)
#undef FBCONV_WITH_PARALLEL
};

// Layers too large for one tile of the cache, in rows and in images.
template <typename T>
void test_many_tiles(const CpuEngine& engine) {
  const Case cases[] = {
      {"many rows", {1, 128, 26, 40, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1}},
      {"many strided rows", {1, 64, 64, 61, 3, 3, 3, 2, 2, 1, 1, 1, 1, 1}},
      {"many images", {40, 32, 9, 9, 4, 3, 3, 1, 1, 1, 0, 1, 1, 2}},
  };
  Random random(31);
  for (const Case& c : cases) {
    const ConvGeometry& g = c.geometry;
    const Problem problem(g, random);
    const Pattern pattern = random_pattern(random, g.out_channels, g.group_inputs(), 9, .1);
    check_sparse<T>(engine, problem, pattern, Layout::kContiguous, random, c.name);
    const NaiveBasis basis{1, 9, false};
    const BasisProblem sides(g, basis, pattern, random);
    check_basis_maps<T>(engine, problem, sides, pattern, Layout::kContiguous, c.name);
    check_basis_params<T>(engine, problem, sides, pattern, Layout::kContiguous, c.name);
  }
}

// Dense arrays of several tasks that end within a block of the mask, at densities on both sides of
// the one from which masks are used.
template <typename T>
void test_large_embedding(const CpuEngine& engine) {
  Random random(41);
  for (const double density : {.02, .3, 1.}) {
    const Pattern pattern = random_pattern(random, 81, 99, 9, density);
    check_embedding<T>(engine, pattern, random, "density " + std::to_string(density));
  }
}

// The first choice of tables throws where the request cannot be met.
inline int check_capability() {
  const char* asked = std::getenv("FBCONV_CPU_CAPABILITY");
  try {
    CHECK(asked == nullptr || std::strcmp(capability_name(), asked) == 0, capability_name());
    return 0;
  } catch (const std::runtime_error& error) {
    std::cout << error.what() << "\n";
    return std::strstr(error.what(), "this CPU lacks") != nullptr ? kSkipped : 1;
  }
}

}  // namespace fbconv::test
