// What a function for Python says of arguments that it does not take.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

namespace fbconv {

inline void require(bool condition, const std::string& message) {
  if (!condition) throw pybind11::value_error(message);
}

}  // namespace fbconv
