// What the kernels' tests are made of: geometries, random sparse patterns, maps in every memory
// layout, and comparison within rounding.
#pragma once

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/core/pattern.h"
#include "check.h"
#include "naive.h"

namespace fbconv::test {

struct Case {
  const char* name;
  ConvGeometry geometry;
};

// batch, C_in, H, W, C_out, KH, KW, stride, padding, dilation, groups
inline std::vector<Case> conv_cases() {
  return {
      {"plain", {2, 3, 7, 9, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1}},
      {"wide", {1, 5, 3, 67, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1}},
      {"pointwise", {3, 6, 5, 4, 5, 1, 1, 1, 1, 0, 0, 1, 1, 1}},
      {"batch of 17", {17, 4, 4, 4, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1}},
      {"stride 2", {2, 3, 9, 8, 4, 3, 3, 2, 2, 1, 1, 1, 1, 1}},
      {"stride beyond kernel", {2, 2, 11, 10, 3, 2, 2, 3, 4, 0, 0, 1, 1, 1}},
      {"uneven everything", {2, 4, 10, 13, 6, 2, 3, 2, 1, 0, 2, 3, 2, 2}},
      {"dilated", {1, 3, 12, 12, 2, 3, 3, 1, 1, 2, 2, 2, 2, 1}},
      {"strided and dilated", {2, 2, 13, 11, 3, 3, 3, 2, 3, 2, 1, 3, 2, 1}},
      {"large kernel", {1, 2, 9, 9, 3, 5, 7, 1, 2, 2, 3, 1, 1, 1}},
      {"single output", {2, 3, 3, 3, 4, 3, 3, 1, 1, 0, 0, 1, 1, 1}},
      {"padding beyond kernel", {1, 2, 3, 3, 2, 2, 2, 1, 1, 3, 3, 1, 1, 1}},
      {"grouped", {2, 6, 6, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1, 2}},
      {"grouped and strided", {2, 6, 7, 7, 9, 3, 3, 2, 2, 1, 1, 1, 1, 3}},
      {"depthwise", {2, 5, 6, 6, 5, 3, 3, 1, 1, 1, 1, 1, 1, 5}},
      {"depthwise with multiplier", {2, 4, 7, 5, 8, 3, 3, 2, 1, 1, 1, 1, 2, 4}},
      {"linear", {1, 13, 10, 1, 7, 1, 1, 1, 1, 0, 0, 1, 1, 1}},
      {"empty batch", {0, 3, 5, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1}},
  };
}

using Random = std::mt19937_64;

// Values of either sign and of about unit size that float represents exactly.
inline Dense random_dense(Random& random, int64_t count) {
  Dense dense(count);
  for (double& value : dense) {
    value = static_cast<float>(std::uniform_real_distribution<double>(-1, 1)(random));
  }
  return dense;
}

// A mask and its packed pattern.
struct Pattern {
  int64_t rows, channels, taps;
  std::vector<bool> mask;
  std::vector<int32_t> packed;

  Pattern(std::vector<bool> given, int64_t row_count, int64_t channel_count, int64_t tap_count)
      : rows(row_count), channels(channel_count), taps(tap_count), mask(std::move(given)) {
    std::vector<int32_t> row_ptr{0}, index, channel_ptr{0}, t_index, t_value;
    std::vector<int32_t> value_of(mask.size());
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < channels * taps; ++i) {
        if (!mask[row * channels * taps + i]) continue;
        value_of[row * channels * taps + i] = static_cast<int32_t>(index.size());
        index.push_back(static_cast<int32_t>(i));
      }
      row_ptr.push_back(static_cast<int32_t>(index.size()));
    }
    for (int64_t channel = 0; channel < channels; ++channel) {
      for (int64_t i = 0; i < rows * taps; ++i) {
        const int64_t at = (i / taps * channels + channel) * taps + i % taps;
        if (!mask[at]) continue;
        t_index.push_back(static_cast<int32_t>(i));
        t_value.push_back(value_of[at]);
      }
      channel_ptr.push_back(static_cast<int32_t>(t_index.size()));
    }
    packed = {kPatternMagic,
              static_cast<int32_t>(rows),
              static_cast<int32_t>(channels),
              static_cast<int32_t>(taps),
              static_cast<int32_t>(index.size()),
              0,
              0,
              0};
    for (const auto* part : {&row_ptr, &index, &channel_ptr, &t_index, &t_value}) {
      packed.insert(packed.end(), part->begin(), part->end());
    }
  }

  int64_t nnz() const { return packed[4]; }
  PatternView view() const { return view_pattern(packed.data(), rows, channels, taps, nnz()); }

  Dense scatter(const Dense& values) const {
    Dense dense(mask.size());
    for (size_t i = 0, k = 0; i < mask.size(); ++i) {
      if (mask[i]) dense[i] = values[k++];
    }
    return dense;
  }
  Dense gather(const Dense& dense) const {
    Dense values;
    for (size_t i = 0; i < mask.size(); ++i) {
      if (mask[i]) values.push_back(dense[i]);
    }
    return values;
  }
};

// Below full density the first row is empty, and so is the last channel where there are several.
inline Pattern random_pattern(Random& random, int64_t rows, int64_t channels, int64_t taps,
                              double density) {
  std::vector<bool> mask(rows * channels * taps);
  for (size_t i = 0; i < mask.size(); ++i) {
    const int64_t row = i / (channels * taps), channel = i / taps % channels;
    const bool emptied = row == 0 || (channels > 1 && channel == channels - 1);
    mask[i] = std::uniform_real_distribution<double>(0, 1)(random) < density &&
              (density == 1 || !emptied);
  }
  return Pattern(std::move(mask), rows, channels, taps);
}

enum class Layout { kContiguous, kChannelsLast, kSlice };
constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kChannelsLast, Layout::kSlice};

// A map in memory.  kSlice leaves gaps between all elements; they keep a value that results never
// have, and whoever writes there is found out.
template <typename T>
class Map {
 public:
  Map(const Shape& shape, Layout layout) : shape_(shape) {
    const int64_t rows = shape.rows, columns = shape.columns, channels = shape.channels;
    if (layout == Layout::kContiguous) {
      strides_ = {nullptr, channels * rows * columns, rows * columns, columns, 1};
    } else if (layout == Layout::kChannelsLast) {
      strides_ = {nullptr, channels * rows * columns, 1, columns * channels, channels};
    } else {
      const int64_t column = 2, row = column * columns + 3, channel = row * rows + 1;
      strides_ = {nullptr, channel * channels + 5, channel, row, column};
    }
    const int64_t last =
        shape.count() == 0 ? -1 : place(shape.batch - 1, channels - 1, rows - 1, columns - 1);
    storage_.assign(last + 1, kGap);
  }
  Map(const Shape& shape, Layout layout, const Dense& values) : Map(shape, layout) {
    for_each([&](int64_t i, int64_t at) { storage_[at] = static_cast<T>(values[i]); });
  }

  MapView<const T> view() const {
    return {storage_.data(), strides_.batch_stride, strides_.channel_stride, strides_.row_stride,
            strides_.column_stride};
  }
  MapView<T> view() {
    MapView<T> view = strides_;
    view.data = storage_.data();
    return view;
  }

  Dense dense() const {
    Dense values(shape_.count());
    for_each([&](int64_t i, int64_t at) { values[i] = storage_[at]; });
    return values;
  }
  bool gaps_untouched() const {
    std::vector<T> rest = storage_;
    for_each([&](int64_t, int64_t at) { rest[at] = kGap; });
    return rest == std::vector<T>(rest.size(), kGap);
  }

 private:
  static constexpr T kGap = T(12345);

  int64_t place(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return n * strides_.batch_stride + c * strides_.channel_stride + h * strides_.row_stride +
           w * strides_.column_stride;
  }
  template <typename Visit>
  void for_each(const Visit& visit) const {
    int64_t i = 0;
    for (int64_t n = 0; n < shape_.batch; ++n)
      for (int64_t c = 0; c < shape_.channels; ++c)
        for (int64_t h = 0; h < shape_.rows; ++h)
          for (int64_t w = 0; w < shape_.columns; ++w) visit(i++, place(n, c, h, w));
  }

  Shape shape_;
  MapView<T> strides_{};
  std::vector<T> storage_;
};

template <typename T>
std::vector<T> cast(const Dense& values) {
  return std::vector<T>(values.begin(), values.end());
}
inline Dense absolute(Dense values) {
  for (double& value : values) value = std::fabs(value);
  return values;
}

// Rounding errors stay within a few ulps of the sum of the terms' magnitudes, which `scale` holds.
template <typename T>
void check_close(const Dense& got, const Dense& expected, const Dense& scale,
                 const std::string& what) {
  const double ulps = 16 * std::numeric_limits<T>::epsilon();
  CHECK(got.size() == expected.size() && scale.size() == expected.size(), what);
  size_t i = 0;
  // Written so that a NaN is never close.
  while (i < expected.size() && std::fabs(got[i] - expected[i]) <= ulps * scale[i]) ++i;
  const bool close = i == expected.size();
  CHECK(close, close ? what
                     : what + " at " + std::to_string(i) + ": expected " +
                           std::to_string(expected[i]) + ", got " + std::to_string(got[i]));
}

}  // namespace fbconv::test
