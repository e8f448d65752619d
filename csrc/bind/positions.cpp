// The position coder for host memory that Python owns.
#include "positions.h"

#include <string>
#include <string_view>
#include <vector>

#include "../core/position_coder.h"
#include "require.h"

namespace fbconv {
namespace {

namespace py = pybind11;

void check(const std::string& op, uintptr_t address, int64_t kept, int64_t size) {
  require(size >= 0 && size <= kMaxCodedSize,
          op + ": size must be in [0, 2^31), got " + std::to_string(size));
  require(kept >= 0 && kept <= size,
          op + ": kept must be in [0, " + std::to_string(size) + "], got " + std::to_string(kept));
  require(address != 0 || kept == 0,
          op + ": no memory of " + std::to_string(kept) + " positions lies at 0");
}

bool rise_within(const int64_t* positions, int64_t kept, int64_t size) {
  for (int64_t k = 0; k < kept; ++k) {
    if (positions[k] < (k > 0 ? positions[k - 1] + 1 : 0) || positions[k] >= size) return false;
  }
  return true;
}

py::bytes encode(uintptr_t address, int64_t kept, int64_t size) {
  check("encode_positions", address, kept, size);
  const int64_t* positions = reinterpret_cast<const int64_t*>(address);
  bool valid = false;
  std::vector<uint8_t> bytes;
  {
    const py::gil_scoped_release release;
    valid = rise_within(positions, kept, size);
    if (valid) bytes = encode_positions(positions, kept, size);
  }
  require(valid, "encode_positions: positions must rise strictly within [0, " +
                     std::to_string(size) + ")");
  return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

bool decode(const py::bytes& code, int64_t kept, int64_t size, uintptr_t address) {
  check("decode_positions", address, kept, size);
  const std::string_view bytes = code;
  const py::gil_scoped_release release;
  return decode_positions(reinterpret_cast<const uint8_t*>(bytes.data()),
                          static_cast<int64_t>(bytes.size()), size, kept,
                          reinterpret_cast<int64_t*>(address));
}

}  // namespace

void bind_positions(py::module_& m) {
  using py::arg;
  m.def("encode_positions", &encode, arg("address"), arg("kept"), arg("size"),
        "The code of so many int64 positions at an address, which rise strictly within [0, size).");
  m.def("decode_positions", &decode, arg("code"), arg("kept"), arg("size"), arg("address"),
        "Writes so many int64 positions to an address; whether the code is the encoder's own.");
}

}  // namespace fbconv
