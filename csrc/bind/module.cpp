// fbconv._C: importing it registers torch.ops.fbconv.*; what is not a tensor operator is a function
// here.
#include <pybind11/pybind11.h>

#include "../cpu/kernels.h"
#include "../cpu/plan_store.h"
#include "cops.h"
#include "draw.h"
#include "effort.h"
#include "fbconv_build_info.h"
#include "kept_weights.h"
#include "peak.h"
#include "positions.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = FBCONV_VERSION;
  info["compiler"] = FBCONV_COMPILER;
  info["torch"] = FBCONV_TORCH_VERSION;
  info["cuda"] = FBCONV_CUDA_VERSION;
  info["cuda_check"] = FBCONV_CUDA_CHECK;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "fbconv's compiled half: its operators, and what it was built with.";
  m.def("build_info", &build_info,
        "What this extension was built with: version, compiler, torch, cuda (empty without) and "
        "cuda_check, "
        "which says whether the CUDA kernels were built or compiled as a check.");
  m.def("capability", &fbconv::capability_name,
        "The CPU instruction set in use: \"default\", \"avx2\" or \"avx512\" "
        "(FBCONV_CPU_CAPABILITY forces one).");
  m.def(
      "plan_bytes", [] { return fbconv::PlanStore::shared().bytes(); },
      "Memory of what was made of patterns to run them on the CPU, and is kept for further calls.");
  fbconv::bind_cops(m);
  fbconv::bind_draw(m);
  fbconv::bind_effort(m);
  m.def(
      "forget_weight", [](uintptr_t owner) { fbconv::kept_weights().forget(owner); },
      py::arg("owner"), "Drops the dense weight kept for the values that lie at this address.");
  fbconv::bind_peak(m);
  fbconv::bind_positions(m);
}
