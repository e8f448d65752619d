// What tells Python whether a tensor still holds what it held.
#include "fingerprint.h"

#include <stdexcept>
#include <string>

#include "../cpu/fingerprint.h"

namespace fbconv {
namespace {

namespace py = pybind11;

py::tuple fingerprint_of(uintptr_t address, int64_t bytes) {
  if (bytes < 0 || (address == 0 && bytes > 0)) {
    throw std::invalid_argument("fingerprint: no memory of " + std::to_string(bytes) +
                                " bytes lies at " + std::to_string(address));
  }
  Fingerprint print;
  {
    const py::gil_scoped_release release;
    print = fingerprint(reinterpret_cast<const void*>(address), bytes);
  }
  return py::make_tuple(print.low, print.high);
}

}  // namespace

void bind_fingerprint(py::module_& m) {
  m.def(
      "fingerprint", &fingerprint_of, py::arg("address"), py::arg("bytes"),
      "Two numbers that tell the contents of host memory apart, read at the speed of the caches.");
}

}  // namespace fbconv
