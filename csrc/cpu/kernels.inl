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
#include "masked.inl"
#include "peak.inl"

template <typename T>
constexpr KernelTable<T> table() {
  KernelTable<T> t{};
  t.lanes = Vec<T>::kLanes;
  t.gather = gather<T>;
  t.gather_runs = gather_runs<T>;
  t.correlate = correlate<T>;
#ifdef __AVX512F__
  t.masked_gather = masked_gather<T>;
  t.masked_correlate = masked_correlate<T>;
  t.masked_correlate_shared = masked_correlate_shared<T>;
#endif
  t.copy_lines = copy_lines<T>;
  t.pack_images = pack_images<T>;
  t.unpack_images = unpack_images<T>;
  t.copy = copy<T>;
  t.multiply_adds = multiply_adds<T>;
  t.expand = expand<T>;
  t.compress = compress<T>;
  t.digest = digest;
  return t;
}

}  // namespace

extern const KernelTable<float> float_kernels;
extern const KernelTable<double> double_kernels;
const KernelTable<float> float_kernels = table<float>();
const KernelTable<double> double_kernels = table<double>();

}  // namespace FBCONV_ISA
}  // namespace fbconv
