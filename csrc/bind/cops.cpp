// COPS for NumPy vectors: checks, dispatch on the two dtypes, threads.
#include "cops.h"

#include <pybind11/numpy.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <type_traits>
#include <utility>

#include "../core/cops.h"
#include "require.h"

namespace py = pybind11;

namespace fbconv {
namespace {

void run_on_torch_threads(int64_t tasks, void (*body)(void*, int64_t), void* context) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) body(context, task);
  });
}

Parallel torch_threads() {
  return {static_cast<int64_t>(torch::stable::get_num_threads()), run_on_torch_threads};
}

std::string to_text(double number) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", number);
  return text;
}

bool is_vector(const py::array& scores) {
  const bool floating =
      py::isinstance<py::array_t<float>>(scores) || py::isinstance<py::array_t<double>>(scores);
  return floating && scores.ndim() == 1 && (scores.flags() & py::array::c_style) != 0;
}

std::string describe(const py::array& scores) {
  return py::str("{} of shape {}").format(scores.dtype(), scores.attr("shape"));
}

void check(const std::string& op, const py::array& target, const py::array& control, int64_t keep) {
  for (const auto& [name, scores] : {std::pair{"target", target}, std::pair{"control", control}}) {
    require(is_vector(scores), op + ": " + name +
                                   " must be a contiguous float32 or float64 vector, got " +
                                   describe(scores));
  }
  const int64_t size = target.size();
  require(control.size() == size, op + ": control must have target's " + std::to_string(size) +
                                      " scores, got " + std::to_string(control.size()));
  require(size < (int64_t{1} << 32),
          op + ": target must have fewer than 2^32 scores, got " + std::to_string(size));
  require(keep >= 0 && keep <= size,
          op + ": keep must be in [0, " + std::to_string(size) + "], got " + std::to_string(keep));
}

// Calls f(target pointer, control pointer) with their types, without the interpreter's lock.
template <typename F>
auto with_types(const py::array& target, const py::array& control, const F& f) {
  const void *a = target.data(), *b = control.data();
  const bool wide_a = target.itemsize() == sizeof(double);
  const bool wide_b = control.itemsize() == sizeof(double);
  const py::gil_scoped_release release;
  if (wide_a && wide_b) return f(static_cast<const double*>(a), static_cast<const double*>(b));
  if (wide_a) return f(static_cast<const double*>(a), static_cast<const float*>(b));
  if (wide_b) return f(static_cast<const float*>(a), static_cast<const double*>(b));
  return f(static_cast<const float*>(a), static_cast<const float*>(b));
}

py::dict scale(const py::array& target, const py::array& control, int64_t keep) {
  check("cops_scale", target, control, keep);
  const CopsScale scale = with_types(target, control, [&](auto* a, auto* b) {
    return cops_scale(a, b, target.size(), keep, torch_threads());
  });
  py::dict result;
  result["target_norm"] = scale.target_norm;
  result["control_norm"] = scale.control_norm;
  result["target_not_finite"] = scale.target_not_finite;
  result["control_not_finite"] = scale.control_not_finite;
  result["control_min"] = scale.control_min;
  result["multiplier"] = scale.multiplier;
  return result;
}

py::dict solve(const py::array& target, const py::array& control, int64_t keep, double kappa,
               double multiplier, double target_base, double control_base) {
  check("cops_solve", target, control, keep);
  require(!std::isnan(kappa), "cops_solve: kappa must be a number, got NaN");
  require(multiplier > 0 && std::isfinite(multiplier),
          "cops_solve: multiplier must be positive, got " + to_text(multiplier));
  py::array_t<bool> mask(target.size());
  uint8_t* bytes = reinterpret_cast<uint8_t*>(mask.mutable_data());
  const CopsSolution s = with_types(target, control, [&](auto* a, auto* b) {
    using A = std::decay_t<decltype(*a)>;
    using B = std::decay_t<decltype(*b)>;
    const CopsProblem<A, B> problem{a,     b,           target.size(), keep,
                                    kappa, target_base, control_base,  multiplier};
    return cops_solve(problem, bytes, torch_threads());
  });
  require(s.feasible, "cops_solve: kappa must be at least " + to_text(s.control_plus) +
                          ", the lowest control score of any mask, got " + to_text(kappa));
  py::dict result;
  result["mask"] = mask;
  result["multiplier"] = s.multiplier;
  result["dual"] = s.dual;
  result["target_plus"] = s.target_plus;
  result["control_plus"] = s.control_plus;
  result["target_minus"] = s.target_minus;
  result["control_minus"] = s.control_minus;
  result["kept"] = s.kept;
  result["steps"] = s.steps;
  return result;
}

}  // namespace

void bind_cops(py::module_& m) {
  using py::arg;
  m.def("cops_scale", &scale, arg("target"), arg("control"), arg("keep"),
        "Norms of two score vectors, counts of what is not finite, the lowest control score.");
  m.def("cops_solve", &solve, arg("target"), arg("control"), arg("keep"), arg("kappa"),
        arg("multiplier"), arg("target_base") = 0., arg("control_base") = 0.,
        "The COPS mask of two score vectors and what is known about it; lower scores are kept.");
}

}  // namespace fbconv
