#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace fbconv {

#define FBCONV_DECLARE_KERNELS(ns)                 \
  namespace ns {                                   \
  extern const KernelTable<float> float_kernels;   \
  extern const KernelTable<double> double_kernels; \
  }
FBCONV_DECLARE_KERNELS(baseline)
#ifdef FBCONV_X86
FBCONV_DECLARE_KERNELS(avx2)
FBCONV_DECLARE_KERNELS(avx512)
#endif

namespace {

struct Capability {
  const char* name;
  bool available;
  const KernelTable<float>* for_float;
  const KernelTable<double>* for_double;
};

// Best first.
#ifdef FBCONV_X86
const Capability kCapabilities[] = {
    {"avx512",
     __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"),
     &avx512::float_kernels, &avx512::double_kernels},
    {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), &avx2::float_kernels,
     &avx2::double_kernels},
    {"default", true, &baseline::float_kernels, &baseline::double_kernels},
};
#else
const Capability kCapabilities[] = {
    {"default", true, &baseline::float_kernels, &baseline::double_kernels},
};
#endif

const Capability& choose() {
  const char* asked = std::getenv("FBCONV_CPU_CAPABILITY");
  for (const Capability& c : kCapabilities) {
    if (asked == nullptr || asked[0] == '\0') {
      if (c.available) return c;
    } else if (std::string(asked) == c.name) {
      if (c.available) return c;
      throw std::runtime_error(std::string("FBCONV_CPU_CAPABILITY=") + asked +
                               ": this CPU lacks these instructions");
    }
  }
  throw std::runtime_error(
      std::string("FBCONV_CPU_CAPABILITY must be default, avx2 or avx512, got ") + asked);
}

const Capability& capability() {
  static const Capability& chosen = choose();
  return chosen;
}

}  // namespace

template <>
const KernelTable<float>& kernels<float>() {
  return *capability().for_float;
}

template <>
const KernelTable<double>& kernels<double>() {
  return *capability().for_double;
}

const char* capability_name() { return capability().name; }

}  // namespace fbconv
