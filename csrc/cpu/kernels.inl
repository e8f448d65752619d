// Compiled once per instruction set, with FBCONV_ISA (a namespace) and FBCONV_VECTOR_BYTES.

#include <cstdint>
#include <utility>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "kernels.h"

namespace fbconv {
namespace FBCONV_ISA {
namespace {

// No function of the STL in these files: an inline one compiled with AVX-512 could be the copy the
// linker keeps for everybody.
#include "vec.inl"
// Order matters: the rest is written with Vec and steps.
#include "steps.inl"
// One kernel a file.
#include "copy.inl"
#include "correlate.inl"
#include "digest.inl"
#include "expand.inl"
#include "gather.inl"
#include "gather_runs.inl"
#include "peak.inl"

template <typename T>
constexpr KernelTable<T> table() {
  return {Vec<T>::kLanes,   gather<T>,      gather_runs<T>,   correlate<T>,
          copy_lines<T>,    pack_images<T>, unpack_images<T>, copy<T>,
          multiply_adds<T>, expand<T>,      compress<T>,      digest};
}

}  // namespace

extern const KernelTable<float> float_kernels;
extern const KernelTable<double> double_kernels;
const KernelTable<float> float_kernels = table<float>();
const KernelTable<double> double_kernels = table<double>();

}  // namespace FBCONV_ISA
}  // namespace fbconv
