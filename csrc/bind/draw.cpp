// Random weights for Python, on torch's threads.
#include "draw.h"

#include <pybind11/numpy.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <string>

#include "../core/draw.h"
#include "require.h"

namespace fbconv {
namespace {

namespace py = pybind11;

constexpr int64_t kBlock = 1 << 14;

Distribution distribution_of(const std::string& name) {
  if (name == "uniform") return Distribution::kUniform;
  if (name == "sign") return Distribution::kSign;
  if (name == "normal") return Distribution::kNormal;
  throw py::value_error("draw: distribution must be uniform, sign or normal, got " + name);
}

py::array_t<float> drawn(const std::string& distribution, uint32_t seed, const std::string& name,
                         float scale, int64_t count) {
  const Distribution kind = distribution_of(distribution);
  require(count >= 0, "draw: count must not be negative, got " + std::to_string(count));
  py::array_t<float> numbers(count);
  float* const out = numbers.mutable_data();
  const uint64_t key = name_key(name);
  const py::gil_scoped_release release;
  torch::stable::parallel_for(0, (count + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kBlock;
    draw(kind, seed, key, scale, first, std::min(count, end * kBlock) - first, out + first);
  });
  return numbers;
}

}  // namespace

void bind_draw(py::module_& m) {
  m.def("draw", &drawn, py::arg("distribution"), py::arg("seed"), py::arg("name"), py::arg("scale"),
        py::arg("count"),
        "A float32 vector of `count` numbers times `scale`, \"uniform\" on (-1, 1), \"sign\" or "
        "\"normal\": the same bits from a 32-bit seed and a name on every platform.");
}

}  // namespace fbconv
