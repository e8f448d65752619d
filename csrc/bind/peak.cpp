// The measured peak of one core, which benchmarks compare with.
#include "peak.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "../cpu/kernels.h"

namespace fbconv {
namespace {

double fma_gflops(double seconds) {
  if (!(seconds > 0 && seconds <= 60)) {
    throw std::invalid_argument("fma_gflops: seconds must be in (0, 60], got " +
                                std::to_string(seconds));
  }
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kSteps = 100000;  // about a millisecond: long for the clock, short for the rest
  constexpr int64_t kMaxChains = 16;
  const int64_t width = kernels<float>().lanes;
  std::vector<float> lanes(kMaxChains * width, 0.0f);
  double best = 0, operations = 0;
  const auto elapsed = [](Clock::time_point since) {
    return std::chrono::duration<double>(Clock::now() - since).count();
  };
  const auto start = Clock::now();
  do {
    const auto begin = Clock::now();
    operations = kernels<float>().multiply_adds(lanes.data(), 0.5f, 0.5f, kSteps);
    best = std::max(best, operations / elapsed(begin));
  } while (elapsed(start) < seconds);
  // x / 2 + 1 / 2 takes every lane that was counted from 0 to 1, to the last bit.
  const auto counted = lanes.begin() + static_cast<int64_t>(operations / (2.0 * kSteps));
  if (std::any_of(lanes.begin(), counted, [](float lane) { return lane != 1.0f; })) {
    throw std::runtime_error(
        "fma_gflops: lanes must converge to 1: fewer were computed than counted");
  }
  return best * 1e-9;
}

}  // namespace

void bind_peak(pybind11::module_& m) {
  m.def("fma_gflops", &fma_gflops, pybind11::arg("seconds"),
        pybind11::call_guard<pybind11::gil_scoped_release>(),
        "Peak of one core in GFLOP/s: float32 multiply-adds on registers in the instruction set in "
        "use, at the best of the milliseconds measured within `seconds`, (0, 60].");
}

}  // namespace fbconv
