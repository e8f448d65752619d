#include "sweep.h"

#include <algorithm>

namespace fbconv {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

SweepAxis forward_axis(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t pad,
                       int64_t dilation) {
  const int64_t span = dilation * (kernel - 1);
  SweepAxis axis{};
  axis.source = {stride, std::min(stride, span + 1), pad, in};
  axis.out = {1, 1, 0, out};
  axis.first = 0;
  axis.grid = out;
  axis.lead = 0;
  axis.reach = span / stride;
  axis.copies = kernel;
  return axis;
}

SweepAxis adjoint_axis(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t pad,
                       int64_t dilation) {
  SweepAxis axis{};
  axis.source = {1, 1, 0, out};
  axis.out = {stride, stride, pad, in};
  axis.first = pad / stride;
  axis.grid = (pad + in - 1) / stride - axis.first + 1;
  axis.reach = dilation * (kernel - 1) / stride;
  axis.lead = axis.reach;
  axis.copies = std::min(kernel, axis.reach + 1);
  return axis;
}

}  // namespace

void Axis::clip(int64_t phase, int64_t begin, int64_t end, int64_t* first, int64_t* last) const {
  const int64_t offset = shift - phase;  // step * i must lie in [offset, extent + offset)
  *first = std::min(end, std::max(begin, ceil_div(offset, step)));
  *last = std::max(*first, std::min(end, ceil_div(extent + offset, step)));
}

Sweep forward_sweep(const ConvGeometry& g) {
  return {forward_axis(g.in_h, g.out_h(), g.kernel_h, g.stride_h, g.pad_h, g.dilation_h),
          forward_axis(g.in_w, g.out_w(), g.kernel_w, g.stride_w, g.pad_w, g.dilation_w)};
}

Sweep adjoint_sweep(const ConvGeometry& g) {
  return {adjoint_axis(g.in_h, g.out_h(), g.kernel_h, g.stride_h, g.pad_h, g.dilation_h),
          adjoint_axis(g.in_w, g.out_w(), g.kernel_w, g.stride_w, g.pad_w, g.dilation_w)};
}

}  // namespace fbconv
