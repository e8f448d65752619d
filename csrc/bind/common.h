// The operators once for all devices: check, allocate, hand raw pointers to the device's kernels.
//
// A Backend is constructed from the operator's first tensor (device guard, stream, threads) and has
//   template <T> sparse_conv2d, sparse_conv2d_grad_input, ... as in cpu/ops.h, and
//   check_indices(op, pattern tensor, half, view): what it can say about the words of a pattern.
#pragma once

#include <new>
#include <stdexcept>

#include "../cpu/ops.h"
#include "tensors.h"

namespace fbconv::op {

// Calls f(T{}) for the type that `t` is computed in, in whose kernels memory may run out.
template <typename F>
void with_type(const std::string& op, const Tensor& t, const F& f) {
  try {
    if (t.scalar_type() == ScalarType::Double) {
      f(double{});
    } else {
      f(float{});
    }
  } catch (const std::bad_alloc&) {
    fail(op, "no memory for the scratch of an input of shape " + to_text(sizes_of(t)));
  } catch (const std::length_error& error) {
    fail(op, error.what());
  }
}

inline std::optional<Tensor> check_bias(const std::string& op, const std::optional<Tensor>& bias,
                                        const Tensor& input, int64_t out_channels) {
  if (!bias.has_value()) return std::nullopt;
  check_like(op, "bias", *bias, "input", input);
  check_shape(op, "bias", *bias, {out_channels});
  return as_contiguous(op, computable(op, *bias));
}

inline void check_grad(const std::string& op, const Tensor& grad, const ConvGeometry& g) {
  check_shape(op, "grad", grad, {g.batch, g.out_channels, g.out_h(), g.out_w()});
}

}  // namespace fbconv::op
