// fbconv._C.effort.
#pragma once

#include <pybind11/pybind11.h>

namespace fbconv {

void bind_effort(pybind11::module_& m);

}  // namespace fbconv
