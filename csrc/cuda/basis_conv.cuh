// Filter-basis convolution, one result at a time.  basis is (bases, elements, kernel_h, kernel_w),
// contiguous; the pattern's taps are basis elements.
#pragma once

#include "sparse_conv.cuh"

namespace fbconv {

// Elements are applied to the input where a coefficient needs them: neither Z = conv(X, g) nor
// U = sum lambda X is kept, so the basis-first and mix-first orders are the same computation here.
template <typename T>
FBCONV_HD inline T basis_output(const DeviceConv& c, const DeviceBasis& b, const PatternView& p,
                                const MapView<const T>& input, const T* basis, const T* values,
                                const T* bias, const Site& out) {
  T sum = bias != nullptr ? bias[out.channel] : T(0);
  const int64_t base = group_base(c, out.channel);
  const Run run = row_run(p, out.channel);
  for (int32_t k = run.begin; k < run.end; ++k) {
    const RowEntry e = row_entry(p, k);
    if (!e.valid) continue;
    const int64_t channel = base + e.channel;
    const T* g = basis + (b.of(channel, out.channel) * b.elements + e.tap) * c.taps;
    T filtered = T(0);
    for (int32_t tap = 0; tap < c.taps; ++tap) {
      filtered += g[tap] * source_at(c, input, out, channel, tap);
    }
    sum += values[k] * filtered;
  }
  return sum;
}

template <typename T>
FBCONV_HD inline T basis_input_grad(const DeviceConv& c, const DeviceBasis& b, const PatternView& p,
                                    const MapView<const T>& grad, const T* basis, const T* values,
                                    const Site& in) {
  T sum = T(0);
  const Run run = channel_run(c, p, in.channel);
  for (int32_t i = run.begin; i < run.end; ++i) {
    const ChannelEntry e = channel_entry(p, i);
    if (!e.valid) continue;
    const T* g = basis + (b.of(in.channel, e.row) * b.elements + e.tap) * c.taps;
    T filtered = T(0);
    for (int32_t tap = 0; tap < c.taps; ++tap) {
      filtered += g[tap] * grad_at(c, grad, in, e.row, tap);
    }
    sum += values[e.value] * filtered;
  }
  return sum;
}

// Both parameter gradients are sums over correlations (nnz, taps), corr[k, tap] = <grad[row of k],
// input[channel of k] shifted by tap>.  Coefficients of one (row, channel) share theirs, which
// lies at the first of them; the others' places stay unwritten.
FBCONV_HD inline int32_t correlation_of(const PatternView& p, int64_t row, int32_t k) {
  const int32_t taps = static_cast<int32_t>(p.taps), low = p.index[k] / taps * taps;
  int32_t first = row_run(p, row).begin;
  if (first < k - taps) first = k - taps;  // bounds the walk where a malformed row does not rise
  while (k > first && p.index[k - 1] >= low) --k;
  return k;
}

// True where correlations k has to be computed, false where it is another's or k is malformed.
template <typename T>
FBCONV_HD inline bool correlation_part_of(const DeviceConv& c, const PatternView& p,
                                          const MapView<const T>& grad,
                                          const MapView<const T>& input, int32_t k, int32_t tap,
                                          int64_t first, int64_t step, T* part) {
  const int64_t row = row_of(p, k);
  const RowEntry e = row_entry(p, k);
  if (!e.valid || correlation_of(p, row, k) != k) return false;
  const int64_t channel = group_base(c, row) + e.channel;
  *part = correlation_part(c, grad, input, row, channel, tap, first, step);
  return true;
}

template <typename T>
FBCONV_HD inline T basis_value_grad(const DeviceConv& c, const DeviceBasis& b, const PatternView& p,
                                    const T* basis, const T* correlations, int32_t k) {
  const int64_t row = row_of(p, k);
  const RowEntry e = row_entry(p, k);
  if (!e.valid) return T(0);
  const T* g = basis + (b.of(group_base(c, row) + e.channel, row) * b.elements + e.tap) * c.taps;
  const T* correlation = correlations + static_cast<int64_t>(correlation_of(p, row, k)) * c.taps;
  T sum = T(0);
  for (int32_t tap = 0; tap < c.taps; ++tap) sum += g[tap] * correlation[tap];
  return sum;
}

// The rows whose coefficients may use a basis, cut into `chunks` equal parts.
struct BasisChunks {
  int64_t chunks, rows_each;

  BasisChunks(const ConvGeometry& g, const BasisLayout& layout) {
    constexpr int64_t kBlocks = 1024;  // parts over all bases: enough to fill a GPU
    const int64_t rows = layout.per_output ? g.out_channels / layout.bases : g.out_channels;
    const int64_t wanted = kBlocks / layout.bases > 1 ? kBlocks / layout.bases : 1;
    rows_each = (rows + wanted - 1) / wanted;
    chunks = (rows + rows_each - 1) / rows_each;
  }
};

// Coefficients of `row` that use basis `which`.
FBCONV_HD inline Run basis_run(const DeviceConv& c, const DeviceBasis& b, const PatternView& p,
                               int64_t row, int64_t which) {
  const Run run = row_run(p, row);
  if (b.per_output || b.bases == 1) return run;
  const int64_t low = which * b.channels_each - group_base(c, row);
  return between(p.index, run, low * p.taps, (low + b.channels_each) * p.taps);
}

// What the rows of one chunk contribute to the gradient of basis[which, n, tap].
template <typename T>
FBCONV_HD inline T basis_grad_part(const DeviceConv& c, const DeviceBasis& b,
                                   const BasisChunks& chunks, const PatternView& p, const T* values,
                                   const T* correlations, int64_t chunk, int64_t which, int32_t n,
                                   int32_t tap) {
  const int64_t base = b.per_output ? which * b.channels_each : 0;
  const int64_t limit = b.per_output ? base + b.channels_each : c.out_channels;
  const int64_t begin = base + chunk * chunks.rows_each;
  const int64_t end = begin + chunks.rows_each < limit ? begin + chunks.rows_each : limit;
  T sum = T(0);
  for (int64_t row = begin; row < end; ++row) {
    const Run run = basis_run(c, b, p, row, which);
    int64_t channel = -1, at = 0;
    for (int32_t k = run.begin; k < run.end; ++k) {
      const RowEntry e = row_entry(p, k);
      if (!e.valid) continue;
      if (e.channel != channel) at = k;
      channel = e.channel;
      if (e.tap == n) sum += values[k] * correlations[at * c.taps + tap];
    }
  }
  return sum;
}

}  // namespace fbconv
