// What the planner asks the kernels: how much a layer would make them do.
#include "effort.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "../core/tiling.h"
#include "../cpu/choices.h"
#include "../cpu/linear_view.h"

namespace fbconv {
namespace {

namespace py = pybind11;
using Pair = std::pair<int64_t, int64_t>;

// Vectors multiplied, loaded for them, and moved in and out, of a pattern without structure.
py::tuple compiled_effort(const ConvGeometry& g, double entries) {
  const int64_t lanes = kernels<float>().lanes;
  const double vectors =
      static_cast<double>((g.in_h * g.in_w + lanes - 1) / lanes) * static_cast<double>(g.batch);
  const double sources = static_cast<double>(g.group_inputs() * g.taps());
  const double density = std::min(1.0, entries / (sources * static_cast<double>(g.out_channels)));
  const int64_t blocks = (g.out_channels + kCompiledRows - 1) / kCompiledRows;
  const double rows = static_cast<double>(g.out_channels) / static_cast<double>(blocks);
  const double loads = static_cast<double>(blocks) * sources * (1 - std::pow(1 - density, rows));
  const double maps = static_cast<double>(g.in_channels + g.out_channels);
  return py::make_tuple("compiled", entries * vectors, loads * vectors, maps * vectors);
}

// Vectors multiplied, copied into tiles and back, and transposed into them and back.
py::tuple packed_effort(const ConvGeometry& g, double entries) {
  const Sweep sweep = forward_sweep(g);
  const Workload work{g.batch,        g.in_channels, static_cast<int64_t>(entries), 0,
                      g.out_channels, sizeof(float), kernels<float>().lanes,        1};
  const Lanes kind =
      choose_lanes(sweep, work, {Lanes::kColumns, Lanes::kTaps, Lanes::kImages, Lanes::kPlain});
  const Effort e = effort(sweep, work, kind);
  return py::make_tuple("packed", e.multiplied, e.copied, e.transposed);
}

py::tuple effort_of(int64_t batch, Pair channels, Pair in_size, Pair kernel, Pair stride,
                    Pair padding, Pair dilation, int64_t groups, double entries) {
  ConvGeometry g{batch,          channels.first, in_size.first,   in_size.second, channels.second,
                 kernel.first,   kernel.second,  stride.first,    stride.second,  padding.first,
                 padding.second, dilation.first, dilation.second, groups};
  const bool positive = batch >= 1 && g.in_channels >= 1 && g.out_channels >= 1 && g.in_h >= 1 &&
                        g.in_w >= 1 && g.taps() >= 1 && g.stride_h >= 1 && g.stride_w >= 1 &&
                        groups >= 1;
  if (!positive || g.out_h() < 1 || g.out_w() < 1) {
    throw std::invalid_argument("effort: sizes must be 1 or more");
  }
  g = rows_as_images(g);
  const bool compiled =
      gathers_in_place<float>(g, 0) && worth_compiling(g, sizeof(float), kernels<float>().lanes);
  return compiled ? compiled_effort(g, entries) : packed_effort(g, entries);
}

}  // namespace

void bind_effort(py::module_& m) {
  m.def("effort", &effort_of, py::arg("batch"), py::arg("channels"), py::arg("in_size"),
        py::arg("kernel"), py::arg("stride"), py::arg("padding"), py::arg("dilation"),
        py::arg("groups"), py::arg("entries"),
        "What a sparse convolution of contiguous maps makes the CPU kernels do, in vectors of the "
        "instruction set in use: (\"compiled\", multiply-adds, loads, vectors moved) or "
        "(\"packed\", multiply-adds, vectors copied, vectors transposed).");
}

}  // namespace fbconv
