// What the planner asks the kernels' own tiling: how much a layer would make them do.
#include "effort.h"

#include <pybind11/stl.h>

#include <stdexcept>

#include "../core/tiling.h"
#include "../cpu/kernels.h"
#include "../cpu/linear_view.h"

namespace fbconv {
namespace {

namespace py = pybind11;
using Pair = std::pair<int64_t, int64_t>;

py::tuple effort_of(int64_t batch, int64_t in_channels, int64_t out_channels, Pair out, Pair kernel,
                    Pair stride, Pair dilation, double entries) {
  const auto in = [](int64_t size, int64_t k, int64_t s, int64_t d) {
    return (size - 1) * s + d * (k - 1) + 1;
  };
  ConvGeometry g{batch,
                 in_channels,
                 in(out.first, kernel.first, stride.first, dilation.first),
                 in(out.second, kernel.second, stride.second, dilation.second),
                 out_channels,
                 kernel.first,
                 kernel.second,
                 stride.first,
                 stride.second,
                 0,
                 0,
                 dilation.first,
                 dilation.second,
                 1};
  if (batch < 1 || in_channels < 1 || out_channels < 1 || g.in_h < 1 || g.in_w < 1 ||
      g.taps() < 1 || stride.first < 1 || stride.second < 1) {
    throw std::invalid_argument("effort: sizes must be 1 or more");
  }
  g = rows_as_images(g);
  const Sweep sweep = forward_sweep(g);
  const Workload work{g.batch,      in_channels,   static_cast<int64_t>(entries), 0,
                      out_channels, sizeof(float), kernels<float>().lanes,        1};
  const Lanes kind =
      choose_lanes(sweep, work, {Lanes::kColumns, Lanes::kTaps, Lanes::kImages, Lanes::kPlain});
  const Effort e = effort(sweep, work, kind);
  return py::make_tuple(e.multiplied, e.copied, e.transposed);
}

}  // namespace

void bind_effort(py::module_& m) {
  m.def("effort", &effort_of, py::arg("batch"), py::arg("in_channels"), py::arg("out_channels"),
        py::arg("out_size"), py::arg("kernel"), py::arg("stride"), py::arg("dilation"),
        py::arg("entries"),
        "What a sparse convolution makes the CPU kernels do, in vectors of the instruction set in "
        "use: (multiply-adds, vectors copied, vectors transposed).");
}

}  // namespace fbconv
