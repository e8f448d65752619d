// Compiled once per instruction set, with FBCONV_ISA (a namespace) and FBCONV_VECTOR_BYTES.

#include <cstdint>

#include "kernels.h"

namespace fbconv {
namespace FBCONV_ISA {
namespace {

template <int N>
struct Width {
  static constexpr int value = N;
};

// The compiler's own vectors, as wide as this instruction set's registers: one source for all.
// No STL here: an inline function of it compiled with AVX-512 could be the copy the linker keeps.

template <typename T>
struct Vec {
  static constexpr int kLanes = FBCONV_VECTOR_BYTES / sizeof(T);
  typedef T Type __attribute__((vector_size(FBCONV_VECTOR_BYTES)));
  typedef T Loose __attribute__((vector_size(FBCONV_VECTOR_BYTES), aligned(sizeof(T)), may_alias));

  static Type load(const T* p) { return *reinterpret_cast<const Loose*>(p); }
  static void store(T* p, Type v) { *reinterpret_cast<Loose*>(p) = v; }
  static T sum(Type v) {
    T lane[kLanes];
    store(lane, v);
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
    }
    return lane[0];
  }
};

#include "copy.inl"
#include "correlate.inl"
#include "gather.inl"

}  // namespace

extern const KernelTable<float> float_kernels;
extern const KernelTable<double> double_kernels;
const KernelTable<float> float_kernels{Vec<float>::kLanes, gather<float>, correlate<float>,
                                       copy<float>};
const KernelTable<double> double_kernels{Vec<double>::kLanes, gather<double>, correlate<double>,
                                         copy<double>};

}  // namespace FBCONV_ISA
}  // namespace fbconv
