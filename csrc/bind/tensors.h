// Tensors as the kernels want them: views on maps, outputs in the input's memory format, half
// precision computed in float32.
#pragma once

#include <torch/csrc/stable/device.h>

#include "checks.h"

namespace fbconv {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

inline bool is_half_precision(const Tensor& t) {
  return t.scalar_type() == ScalarType::Half || t.scalar_type() == ScalarType::BFloat16;
}

// Channels neighbouring in memory: the layout that torch calls channels_last.
inline bool is_channels_last(const Tensor& t) {
  return t.dim() == 4 && t.size(1) > 1 && t.stride(1) == 1 && t.stride(3) == t.size(1) &&
         t.stride(2) == t.size(1) * t.size(3);
}

// torch's stable interface does not say what it had no memory for.
template <typename F>
Tensor allocated(const std::string& op, const Ints& shape, const F& make) {
  try {
    return make();
  } catch (const std::exception&) {
    fail(op, "no memory for a tensor of shape " + to_text(shape));
  }
}

inline Tensor new_tensor(const std::string& op, const Tensor& like, const Ints& shape,
                         ScalarType dtype, bool channels_last = false) {
  return allocated(op, shape, [&] {
    return torch::stable::empty(
        shape, dtype, std::nullopt, like.device(), std::nullopt,
        channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  });
}

// float32 copies of half-precision tensors; others pass through.
inline Tensor computable(const std::string& op, const Tensor& t) {
  if (!is_half_precision(t)) return t;
  Tensor copy = new_tensor(op, t, sizes_of(t), ScalarType::Float, is_channels_last(t));
  torch::stable::copy_(copy, t);
  return copy;
}

inline Tensor as_dtype(const std::string& op, const Tensor& t, ScalarType dtype) {
  if (t.scalar_type() == dtype) return t;
  Tensor copy = new_tensor(op, t, sizes_of(t), dtype, is_channels_last(t));
  torch::stable::copy_(copy, t);
  return copy;
}

inline Tensor as_contiguous(const std::string& op, const Tensor& t) {
  if (t.is_contiguous()) return t;
  return allocated(op, sizes_of(t), [&] { return torch::stable::contiguous(t); });
}

template <typename T>
const T* data_of(const Tensor& t) {
  return static_cast<const T*>(t.data_ptr());
}
template <typename T>
const T* data_of(const std::optional<Tensor>& t) {
  return t.has_value() ? data_of<T>(*t) : nullptr;
}
template <typename T>
T* mutable_data_of(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

template <typename T>
MapView<const T> map_of(const Tensor& t) {
  return {data_of<T>(t), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}
template <typename T>
MapView<T> mutable_map_of(const Tensor& t) {
  return {mutable_data_of<T>(t), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}
// (batch, features) as the map of linear_geometry: batch along the rows.
template <typename T>
MapView<const T> linear_map_of(const Tensor& t) {
  return {data_of<T>(t), 0, t.stride(1), t.stride(0), 0};
}
template <typename T>
MapView<T> mutable_linear_map_of(const Tensor& t) {
  return {mutable_data_of<T>(t), 0, t.stride(1), t.stride(0), 0};
}

}  // namespace fbconv
