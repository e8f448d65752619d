// Shapes and strided views that every device's kernels share.  No torch header here.
#pragma once

#include <cstdint>

namespace fbconv {

// A 2-d convolution (linear layers are one with in_w = kernel_h = kernel_w = 1 and the batch along
// in_h).
struct ConvGeometry {
  int64_t batch, in_channels, in_h, in_w;
  int64_t out_channels, kernel_h, kernel_w;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t groups;

  int64_t out_h() const { return out_extent(in_h, pad_h, dilation_h, kernel_h, stride_h); }
  int64_t out_w() const { return out_extent(in_w, pad_w, dilation_w, kernel_w, stride_w); }
  int64_t taps() const { return kernel_h * kernel_w; }
  int64_t group_inputs() const { return in_channels / groups; }
  int64_t group_outputs() const { return out_channels / groups; }

 private:
  static int64_t out_extent(int64_t in, int64_t pad, int64_t dilation, int64_t kernel,
                            int64_t stride) {
    return (in + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
  }
};

// (batch, channel, row, column) with any strides, in elements: NCHW, channels_last and slices
// alike.
template <typename T>
struct MapView {
  T* data;
  int64_t batch_stride, channel_stride, row_stride, column_stride;
};

// Where the bases of a filter-basis convolution (bases, elements, kernel_h, kernel_w) apply: equal
// blocks of neighbouring input channels, or of output channels, have one each.
struct BasisLayout {
  int64_t bases, elements;
  bool per_output;

  int64_t of(const ConvGeometry& g, int64_t in_channel, int64_t out_channel) const {
    return per_output ? out_channel / (g.out_channels / bases)
                      : in_channel / (g.in_channels / bases);
  }
};

}  // namespace fbconv
