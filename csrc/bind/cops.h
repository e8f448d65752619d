// fbconv._C's functions for COPS.
#pragma once

#include <pybind11/pybind11.h>

namespace fbconv {

void bind_cops(pybind11::module_& m);

}  // namespace fbconv
