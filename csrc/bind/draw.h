#pragma once

#include <pybind11/pybind11.h>

namespace fbconv {

void bind_draw(pybind11::module_& m);

}  // namespace fbconv
