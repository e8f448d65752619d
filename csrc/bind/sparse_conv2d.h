// Masked sparse convolution and its gradients.
#pragma once

#include "common.h"

namespace fbconv::op {

template <typename Backend>
Tensor sparse_conv2d(Tensor input, Tensor values, std::optional<Tensor> bias, Tensor pattern,
                     Ints weight_shape, Ints stride, Ints padding, Ints dilation, int64_t groups) {
  const char* op = "sparse_conv2d";
  check_floating(op, "input", input);
  const ConvGeometry g =
      check_geometry(op, sizes_of(input), weight_shape, {stride, padding, dilation, groups});
  PatternView p = check_pattern(op, pattern, input, "input", weight_shape);
  check_like(op, "values", values, "input", input);
  check_values(op, values, p);
  Backend backend(input);
  backend.check_indices(op, pattern, PatternHalf::kForward, &p);
  const Tensor x = computable(op, input), v = as_contiguous(op, computable(op, values));
  const std::optional<Tensor> b = check_bias(op, bias, input, g.out_channels);
  Tensor out = new_tensor(op, x, {g.batch, g.out_channels, g.out_h(), g.out_w()}, x.scalar_type(),
                          is_channels_last(input));
  with_type(op, x, [&](auto zero) {
    using T = decltype(zero);
    backend.template sparse_conv2d<T>(g, p, map_of<T>(x), data_of<T>(v), data_of<T>(b),
                                      mutable_map_of<T>(out));
  });
  return as_dtype(op, out, input.scalar_type());
}

template <typename Backend>
Tensor sparse_conv2d_grad_input(Tensor grad, Tensor values, Tensor pattern, Ints input_shape,
                                Ints weight_shape, Ints stride, Ints padding, Ints dilation,
                                int64_t groups) {
  const char* op = "sparse_conv2d_grad_input";
  check_floating(op, "grad", grad);
  const ConvGeometry g =
      check_geometry(op, input_shape, weight_shape, {stride, padding, dilation, groups});
  check_grad(op, grad, g);
  PatternView p = check_pattern(op, pattern, grad, "grad", weight_shape);
  check_like(op, "values", values, "grad", grad);
  check_values(op, values, p);
  Backend backend(grad);
  backend.check_indices(op, pattern, PatternHalf::kTransposed, &p);
  const Tensor dy = computable(op, grad), v = as_contiguous(op, computable(op, values));
  Tensor out = new_tensor(op, dy, input_shape, dy.scalar_type(), is_channels_last(grad));
  with_type(op, dy, [&](auto zero) {
    using T = decltype(zero);
    backend.template sparse_conv2d_grad_input<T>(g, p, map_of<T>(dy), data_of<T>(v),
                                                 mutable_map_of<T>(out));
  });
  return as_dtype(op, out, grad.scalar_type());
}

template <typename Backend>
Tensor sparse_conv2d_grad_values(Tensor grad, Tensor input, Tensor pattern, Ints weight_shape,
                                 Ints stride, Ints padding, Ints dilation, int64_t groups) {
  const char* op = "sparse_conv2d_grad_values";
  check_floating(op, "grad", grad);
  check_floating(op, "input", input);
  const ConvGeometry g =
      check_geometry(op, sizes_of(input), weight_shape, {stride, padding, dilation, groups});
  check_grad(op, grad, g);
  check_like(op, "input", input, "grad", grad);
  PatternView p = check_pattern(op, pattern, grad, "grad", weight_shape);
  Backend backend(grad);
  backend.check_indices(op, pattern, PatternHalf::kForward, &p);
  const Tensor dy = computable(op, grad), x = computable(op, input);
  Tensor out = new_tensor(op, dy, {p.nnz}, dy.scalar_type());
  with_type(op, dy, [&](auto zero) {
    using T = decltype(zero);
    backend.template sparse_conv2d_grad_values<T>(g, p, map_of<T>(dy), map_of<T>(x),
                                                  mutable_data_of<T>(out));
  });
  return as_dtype(op, out, grad.scalar_type());
}

}  // namespace fbconv::op
