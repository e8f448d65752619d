// fbconv._C.fma_gflops.
#pragma once

#include <pybind11/pybind11.h>

namespace fbconv {

void bind_peak(pybind11::module_& m);

}  // namespace fbconv
