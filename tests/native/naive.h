// The oracle: convolution by its definition, in double, over dense weights.  It shares no code with
// the kernels, output sizes included.
#pragma once

#include <cstdint>
#include <vector>

#include "../../csrc/core/geometry.h"

namespace fbconv::test {

using Dense = std::vector<double>;

// Output positions along one axis, counted.
inline int64_t naive_extent(int64_t in, int64_t kernel, int64_t stride, int64_t pad,
                            int64_t dilation) {
  int64_t count = 0;
  for (int64_t start = -pad; start + dilation * (kernel - 1) < in + pad; start += stride) ++count;
  return count;
}

struct Shape {
  int64_t batch, channels, rows, columns;

  int64_t count() const { return batch * channels * rows * columns; }
  int64_t at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return ((n * channels + c) * rows + h) * columns + w;
  }
};

inline Shape input_shape(const ConvGeometry& g) { return {g.batch, g.in_channels, g.in_h, g.in_w}; }
inline Shape output_shape(const ConvGeometry& g) {
  return {g.batch, g.out_channels,
          naive_extent(g.in_h, g.kernel_h, g.stride_h, g.pad_h, g.dilation_h),
          naive_extent(g.in_w, g.kernel_w, g.stride_w, g.pad_w, g.dilation_w)};
}
inline Shape weight_shape(const ConvGeometry& g) {
  return {g.out_channels, g.in_channels / g.groups, g.kernel_h, g.kernel_w};
}

// Calls visit(x, w, y) with the flat indices of every product x * w that output y sums.
template <typename Visit>
void for_each_product(const ConvGeometry& g, const Visit& visit) {
  const Shape x = input_shape(g), w = weight_shape(g), y = output_shape(g);
  const int64_t rows_per_group = g.out_channels / g.groups;
  for (int64_t n = 0; n < y.batch; ++n)
    for (int64_t o = 0; o < y.channels; ++o)
      for (int64_t oh = 0; oh < y.rows; ++oh)
        for (int64_t ow = 0; ow < y.columns; ++ow)
          for (int64_t c = 0; c < w.channels; ++c)
            for (int64_t kh = 0; kh < w.rows; ++kh)
              for (int64_t kw = 0; kw < w.columns; ++kw) {
                const int64_t ih = oh * g.stride_h + kh * g.dilation_h - g.pad_h;
                const int64_t iw = ow * g.stride_w + kw * g.dilation_w - g.pad_w;
                if (ih < 0 || iw < 0 || ih >= x.rows || iw >= x.columns) continue;
                const int64_t channel = o / rows_per_group * w.channels + c;
                visit(x.at(n, channel, ih, iw), w.at(o, c, kh, kw), y.at(n, o, oh, ow));
              }
}

inline Dense naive_output(const ConvGeometry& g, const Dense& input, const Dense& weight,
                          const Dense& bias) {
  const Shape shape = output_shape(g);
  Dense output(shape.count());
  for (int64_t i = 0; i < shape.count() && !bias.empty(); ++i) {
    output[i] = bias[i / (shape.rows * shape.columns) % shape.channels];
  }
  for_each_product(g, [&](int64_t x, int64_t w, int64_t y) { output[y] += weight[w] * input[x]; });
  return output;
}

inline Dense naive_input_grad(const ConvGeometry& g, const Dense& grad, const Dense& weight) {
  Dense result(input_shape(g).count());
  for_each_product(g, [&](int64_t x, int64_t w, int64_t y) { result[x] += weight[w] * grad[y]; });
  return result;
}

inline Dense naive_weight_grad(const ConvGeometry& g, const Dense& grad, const Dense& input) {
  Dense result(weight_shape(g).count());
  for_each_product(g, [&](int64_t x, int64_t w, int64_t y) { result[w] += grad[y] * input[x]; });
  return result;
}

// A filter-basis convolution's dense coefficients (C_out, C_in / groups, elements) and bases.
struct NaiveBasis {
  int64_t bases, elements;
  bool per_output;

  // Calls visit(weight, coefficient, basis) with the flat indices of every product that the
  // composed weight sums.
  template <typename Visit>
  void for_each_product(const ConvGeometry& g, const Visit& visit) const {
    const Shape w = weight_shape(g);
    const int64_t taps = g.kernel_h * g.kernel_w;
    for (int64_t o = 0; o < w.batch; ++o)
      for (int64_t c = 0; c < w.channels; ++c)
        for (int64_t n = 0; n < elements; ++n)
          for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t channel = o / (g.out_channels / g.groups) * w.channels + c;
            const int64_t which =
                per_output ? o * bases / g.out_channels : channel * bases / g.in_channels;
            visit((o * w.channels + c) * taps + tap, (o * w.channels + c) * elements + n,
                  (which * elements + n) * taps + tap);
          }
  }

  Dense compose(const ConvGeometry& g, const Dense& coefficients, const Dense& basis) const {
    Dense weight(weight_shape(g).count());
    for_each_product(
        g, [&](int64_t w, int64_t c, int64_t b) { weight[w] += coefficients[c] * basis[b]; });
    return weight;
  }
};

}  // namespace fbconv::test
