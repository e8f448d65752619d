// fbconv._C.encode_positions and fbconv._C.decode_positions.
#pragma once

#include <pybind11/pybind11.h>

namespace fbconv {

void bind_positions(pybind11::module_& m);

}  // namespace fbconv
