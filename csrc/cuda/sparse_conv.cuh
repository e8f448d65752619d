// Masked sparse convolution, one result at a time.
#pragma once

#include "lists.cuh"

namespace fbconv {

template <typename T>
FBCONV_HD inline T sparse_output(const DeviceConv& c, const PatternView& p,
                                 const MapView<const T>& input, const T* values, const T* bias,
                                 const Site& out) {
  T sum = bias != nullptr ? bias[out.channel] : T(0);
  const int64_t base = group_base(c, out.channel);
  const Run run = row_run(p, out.channel);
  for (int32_t k = run.begin; k < run.end; ++k) {
    const RowEntry e = row_entry(p, k);
    if (e.valid) sum += values[k] * source_at(c, input, out, base + e.channel, e.tap);
  }
  return sum;
}

template <typename T>
FBCONV_HD inline T sparse_input_grad(const DeviceConv& c, const PatternView& p,
                                     const MapView<const T>& grad, const T* values,
                                     const Site& in) {
  T sum = T(0);
  const Run run = channel_run(c, p, in.channel);
  for (int32_t i = run.begin; i < run.end; ++i) {
    const ChannelEntry e = channel_entry(p, i);
    if (e.valid) sum += values[e.value] * grad_at(c, grad, in, e.row, e.tap);
  }
  return sum;
}

// The part of <grad[row], input[channel] shifted by tap> at positions first, first + step, ...
template <typename T>
FBCONV_HD inline T correlation_part(const DeviceConv& c, const MapView<const T>& grad,
                                    const MapView<const T>& input, int64_t row, int64_t channel,
                                    int32_t tap, int64_t first, int64_t step) {
  T sum = T(0);
  for (int64_t position = first; position < c.positions(); position += step) {
    Site out = site_at(position, 1, c.out_h, c.out_w);
    out.channel = row;
    sum += element(grad, out) * source_at(c, input, out, channel, tap);
  }
  return sum;
}

template <typename T>
FBCONV_HD inline T sparse_value_grad_part(const DeviceConv& c, const PatternView& p,
                                          const MapView<const T>& grad,
                                          const MapView<const T>& input, int32_t k, int64_t first,
                                          int64_t step) {
  const int64_t row = row_of(p, k);
  const RowEntry e = row_entry(p, k);
  if (!e.valid) return T(0);
  return correlation_part(c, grad, input, row, group_base(c, row) + e.channel, e.tap, first, step);
}

}  // namespace fbconv
