// Masked sparse linear layers: convolutions with the batch along the rows.
#pragma once

#include "common.h"

namespace fbconv::op {

// (batch, features) of a linear layer's input of any rank, and that rank's leading sizes.
struct LinearInput {
  Tensor flat;
  Ints leading;

  Ints shape_with(int64_t features) const {
    Ints shape = leading;
    shape.push_back(features);
    return shape;
  }
};

inline LinearInput check_linear_input(const std::string& op, const char* name, const Tensor& t,
                                      int64_t features) {
  const Ints shape = sizes_of(t);
  if (shape.empty() || shape.back() != features) {
    fail(op, std::string(name) + " must have " + std::to_string(features) +
                 " features in its last dimension, got shape " + to_text(shape));
  }
  const Ints leading(shape.begin(), shape.end() - 1);
  int64_t batch = 1;
  for (const int64_t size : leading) batch *= size;
  if (t.dim() == 2) return {t, leading};
  const Ints flat = {batch, features};
  return {allocated(op, flat, [&] { return torch::stable::reshape(t, flat); }), leading};
}

inline void check_weight_rank(const std::string& op, const Ints& weight_shape, size_t rank) {
  if (weight_shape.size() != rank) {
    fail(op, "weight_shape must have " + std::to_string(rank) + " dimensions, got " +
                 to_text(weight_shape));
  }
}

template <typename Backend>
Tensor sparse_linear(Tensor input, Tensor values, std::optional<Tensor> bias, Tensor pattern,
                     Ints weight_shape) {
  const char* op = "sparse_linear";
  check_floating(op, "input", input);
  check_weight_rank(op, weight_shape, 2);
  const LinearInput in = check_linear_input(op, "input", input, weight_shape[1]);
  PatternView p = check_pattern(op, pattern, input, "input", weight_shape);
  check_like(op, "values", values, "input", input);
  check_values(op, values, p);
  Backend backend(input);
  backend.check_indices(op, pattern, PatternHalf::kForward, &p);
  const Tensor x = computable(op, in.flat), v = as_contiguous(op, computable(op, values));
  const std::optional<Tensor> b = check_bias(op, bias, input, weight_shape[0]);
  const int64_t batch = x.size(0);
  Tensor out = new_tensor(op, x, {batch, weight_shape[0]}, x.scalar_type());
  if (batch > 0) {
    with_type(op, x, [&](auto zero) {
      using T = decltype(zero);
      backend.template sparse_conv2d<T>(linear_geometry(op, batch, weight_shape), p,
                                        linear_map_of<T>(x), data_of<T>(v), data_of<T>(b),
                                        mutable_linear_map_of<T>(out));
    });
  }
  return torch::stable::reshape(as_dtype(op, out, input.scalar_type()),
                                in.shape_with(weight_shape[0]));
}

template <typename Backend>
Tensor sparse_linear_grad_input(Tensor grad, Tensor values, Tensor pattern, Ints weight_shape) {
  const char* op = "sparse_linear_grad_input";
  check_floating(op, "grad", grad);
  check_weight_rank(op, weight_shape, 2);
  const LinearInput dy_in = check_linear_input(op, "grad", grad, weight_shape[0]);
  PatternView p = check_pattern(op, pattern, grad, "grad", weight_shape);
  check_like(op, "values", values, "grad", grad);
  check_values(op, values, p);
  Backend backend(grad);
  backend.check_indices(op, pattern, PatternHalf::kTransposed, &p);
  const Tensor dy = computable(op, dy_in.flat), v = as_contiguous(op, computable(op, values));
  const int64_t batch = dy.size(0);
  Tensor out = new_tensor(op, dy, {batch, weight_shape[1]}, dy.scalar_type());
  if (batch > 0) {
    with_type(op, dy, [&](auto zero) {
      using T = decltype(zero);
      backend.template sparse_conv2d_grad_input<T>(linear_geometry(op, batch, weight_shape), p,
                                                   linear_map_of<T>(dy), data_of<T>(v),
                                                   mutable_linear_map_of<T>(out));
    });
  }
  return torch::stable::reshape(as_dtype(op, out, grad.scalar_type()),
                                dy_in.shape_with(weight_shape[1]));
}

template <typename Backend>
Tensor sparse_linear_grad_values(Tensor grad, Tensor input, Tensor pattern, Ints weight_shape) {
  const char* op = "sparse_linear_grad_values";
  check_floating(op, "grad", grad);
  check_weight_rank(op, weight_shape, 2);
  check_like(op, "input", input, "grad", grad);
  const LinearInput dy_in = check_linear_input(op, "grad", grad, weight_shape[0]);
  const LinearInput x_in = check_linear_input(op, "input", input, weight_shape[1]);
  if (dy_in.leading != x_in.leading) {
    fail(op, "input must have grad's leading sizes " + to_text(dy_in.leading) + ", got " +
                 to_text(x_in.leading));
  }
  PatternView p = check_pattern(op, pattern, grad, "grad", weight_shape);
  Backend backend(grad);
  backend.check_indices(op, pattern, PatternHalf::kForward, &p);
  const Tensor dy = computable(op, dy_in.flat), x = computable(op, x_in.flat);
  Tensor out = new_tensor(op, dy, {p.nnz}, dy.scalar_type());
  if (dy.size(0) == 0) torch::stable::zero_(out);
  if (dy.size(0) > 0) {
    with_type(op, dy, [&](auto zero) {
      using T = decltype(zero);
      backend.template sparse_conv2d_grad_values<T>(linear_geometry(op, dy.size(0), weight_shape),
                                                    p, linear_map_of<T>(dy), linear_map_of<T>(x),
                                                    mutable_data_of<T>(out));
    });
  }
  return as_dtype(op, out, grad.scalar_type());
}

}  // namespace fbconv::op
