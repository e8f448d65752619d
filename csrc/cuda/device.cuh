// What the bodies of all CUDA kernels share.  They are plain functions of their indices and compile
// without nvcc as well, so that native tests can run their arithmetic on machines without a GPU.
//
// A pattern's words lie on the device and are never read on the host, so nothing has checked them:
// every index is tested before it becomes an address.  A malformed pattern gives wrong numbers at
// worst, never an access out of bounds.
#pragma once

#include "../core/geometry.h"
#include "../core/pattern.h"

#ifdef __CUDACC__
#define FBCONV_HD __host__ __device__
#else
#define FBCONV_HD
#endif

namespace fbconv {

// ConvGeometry with the quotients that a kernel would otherwise divide for in every thread.
struct DeviceConv {
  int64_t batch, in_channels, in_h, in_w;
  int64_t out_channels, out_h, out_w;
  int64_t group_inputs, group_outputs;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int32_t kernel_w, taps;

  explicit DeviceConv(const ConvGeometry& g)
      : batch(g.batch),
        in_channels(g.in_channels),
        in_h(g.in_h),
        in_w(g.in_w),
        out_channels(g.out_channels),
        out_h(g.out_h()),
        out_w(g.out_w()),
        group_inputs(g.group_inputs()),
        group_outputs(g.group_outputs()),
        stride_h(g.stride_h),
        stride_w(g.stride_w),
        pad_h(g.pad_h),
        pad_w(g.pad_w),
        dilation_h(g.dilation_h),
        dilation_w(g.dilation_w),
        kernel_w(static_cast<int32_t>(g.kernel_w)),
        taps(static_cast<int32_t>(g.taps())) {}

  FBCONV_HD int64_t positions() const { return batch * out_h * out_w; }
  FBCONV_HD int64_t outputs() const { return positions() * out_channels; }
  FBCONV_HD int64_t inputs() const { return batch * in_channels * in_h * in_w; }
};

struct DeviceBasis {
  int64_t bases, channels_each;  // neighbouring channels that share a basis
  int32_t elements;
  bool per_output;

  DeviceBasis(const ConvGeometry& g, const BasisLayout& layout)
      : bases(layout.bases),
        channels_each((layout.per_output ? g.out_channels : g.in_channels) / layout.bases),
        elements(static_cast<int32_t>(layout.elements)),
        per_output(layout.per_output) {}

  FBCONV_HD int64_t of(int64_t in_channel, int64_t out_channel) const {
    return (per_output ? out_channel : in_channel) / channels_each;
  }
};

// One element of a map.
struct Site {
  int64_t image, channel, row, column;
};

FBCONV_HD inline Site site_at(int64_t number, int64_t channels, int64_t rows, int64_t columns) {
  const int64_t line = number / columns, plane = line / rows, image = plane / channels;
  return {image, plane - image * channels, line - plane * rows, number - line * columns};
}

template <typename T>
FBCONV_HD inline T& element(const MapView<T>& map, const Site& s) {
  return map.data[s.image * map.batch_stride + s.channel * map.channel_stride +
                  s.row * map.row_stride + s.column * map.column_stride];
}

// What output position (image, row, column) reads from `channel` at `tap`; zero in the padding.
template <typename T>
FBCONV_HD inline T source_at(const DeviceConv& c, const MapView<const T>& input, const Site& out,
                             int64_t channel, int32_t tap) {
  const int32_t kh = tap / c.kernel_w, kw = tap - kh * c.kernel_w;
  const int64_t row = out.row * c.stride_h - c.pad_h + kh * c.dilation_h;
  const int64_t column = out.column * c.stride_w - c.pad_w + kw * c.dilation_w;
  if (row < 0 || row >= c.in_h || column < 0 || column >= c.in_w) return T(0);
  return element(input, {out.image, channel, row, column});
}

// What output gradient reaches input position `in` from `channel` through `tap`; zero if none does.
template <typename T>
FBCONV_HD inline T grad_at(const DeviceConv& c, const MapView<const T>& grad, const Site& in,
                           int64_t channel, int32_t tap) {
  const int32_t kh = tap / c.kernel_w, kw = tap - kh * c.kernel_w;
  const int64_t h = in.row + c.pad_h - kh * c.dilation_h;
  const int64_t w = in.column + c.pad_w - kw * c.dilation_w;
  if (h < 0 || w < 0) return T(0);
  const int64_t row = h / c.stride_h, column = w / c.stride_w;
  if (row * c.stride_h != h || column * c.stride_w != w) return T(0);
  if (row >= c.out_h || column >= c.out_w) return T(0);
  return element(grad, {in.image, channel, row, column});
}

}  // namespace fbconv
