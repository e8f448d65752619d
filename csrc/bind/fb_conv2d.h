// Filter-basis convolution and its gradients.
#pragma once

#include "common.h"

namespace fbconv::op {

inline MixOrder check_order(const std::string& op, const std::string& order) {
  if (order == "basis_first") return MixOrder::kBasisFirst;
  if (order == "mix_first") return MixOrder::kMixFirst;
  fail(op, "order must be \"basis_first\" or \"mix_first\", got \"" + order + "\"");
}

template <typename Backend>
Tensor fb_conv2d(Tensor input, Tensor basis, Tensor values, std::optional<Tensor> bias,
                 Tensor pattern, Ints coefficient_shape, Ints stride, Ints padding, Ints dilation,
                 int64_t groups, std::string basis_axis, std::string order) {
  const char* op = "fb_conv2d";
  check_floating(op, "input", input);
  check_floating(op, "basis", basis);
  const ConvGeometry g =
      check_geometry(op, sizes_of(input), composed_shape(op, sizes_of(basis), coefficient_shape),
                     {stride, padding, dilation, groups});
  const BasisLayout layout = check_basis(op, sizes_of(basis), coefficient_shape, g, basis_axis);
  const MixOrder mix_order = check_order(op, order);
  PatternView p = check_pattern(op, pattern, input, "input", coefficient_shape);
  check_like(op, "basis", basis, "input", input);
  check_like(op, "values", values, "input", input);
  check_values(op, values, p);
  Backend backend(input);
  backend.check_indices(op, pattern, PatternHalf::kForward, &p);
  const Tensor x = computable(op, input), f = as_contiguous(op, computable(op, basis));
  const Tensor v = as_contiguous(op, computable(op, values));
  const std::optional<Tensor> b = check_bias(op, bias, input, g.out_channels);
  Tensor out = new_tensor(op, x, {g.batch, g.out_channels, g.out_h(), g.out_w()}, x.scalar_type(),
                          is_channels_last(input));
  with_type(op, x, [&](auto zero) {
    using T = decltype(zero);
    backend.template fb_conv2d<T>(g, layout, mix_order, p, map_of<T>(x), data_of<T>(f),
                                  data_of<T>(v), data_of<T>(b), mutable_map_of<T>(out));
  });
  return as_dtype(op, out, input.scalar_type());
}

template <typename Backend>
Tensor fb_conv2d_grad_input(Tensor grad, Tensor basis, Tensor values, Tensor pattern,
                            Ints input_shape, Ints coefficient_shape, Ints stride, Ints padding,
                            Ints dilation, int64_t groups, std::string basis_axis) {
  const char* op = "fb_conv2d_grad_input";
  check_floating(op, "grad", grad);
  check_floating(op, "basis", basis);
  const ConvGeometry g =
      check_geometry(op, input_shape, composed_shape(op, sizes_of(basis), coefficient_shape),
                     {stride, padding, dilation, groups});
  const BasisLayout layout = check_basis(op, sizes_of(basis), coefficient_shape, g, basis_axis);
  check_grad(op, grad, g);
  PatternView p = check_pattern(op, pattern, grad, "grad", coefficient_shape);
  check_like(op, "basis", basis, "grad", grad);
  check_like(op, "values", values, "grad", grad);
  check_values(op, values, p);
  Backend backend(grad);
  backend.check_indices(op, pattern, PatternHalf::kForward, &p);
  const Tensor dy = computable(op, grad), f = as_contiguous(op, computable(op, basis));
  const Tensor v = as_contiguous(op, computable(op, values));
  Tensor out = new_tensor(op, dy, input_shape, dy.scalar_type(), is_channels_last(grad));
  with_type(op, dy, [&](auto zero) {
    using T = decltype(zero);
    backend.template fb_conv2d_grad_input<T>(g, layout, p, map_of<T>(dy), data_of<T>(f),
                                             data_of<T>(v), mutable_map_of<T>(out));
  });
  return as_dtype(op, out, grad.scalar_type());
}

template <typename Backend>
Tensor fb_conv2d_grad_basis(Tensor grad, Tensor input, Tensor values, Tensor pattern,
                            Ints basis_shape, Ints coefficient_shape, Ints stride, Ints padding,
                            Ints dilation, int64_t groups, std::string basis_axis) {
  const char* op = "fb_conv2d_grad_basis";
  check_floating(op, "grad", grad);
  check_floating(op, "input", input);
  const ConvGeometry g =
      check_geometry(op, sizes_of(input), composed_shape(op, basis_shape, coefficient_shape),
                     {stride, padding, dilation, groups});
  const BasisLayout layout = check_basis(op, basis_shape, coefficient_shape, g, basis_axis);
  check_grad(op, grad, g);
  PatternView p = check_pattern(op, pattern, grad, "grad", coefficient_shape);
  check_like(op, "input", input, "grad", grad);
  check_like(op, "values", values, "grad", grad);
  check_values(op, values, p);
  Backend backend(grad);
  backend.check_indices(op, pattern, PatternHalf::kForward, &p);
  const Tensor dy = computable(op, grad), x = computable(op, input),
               v = as_contiguous(op, computable(op, values));
  Tensor out = new_tensor(op, dy, basis_shape, dy.scalar_type());
  with_type(op, dy, [&](auto zero) {
    using T = decltype(zero);
    backend.template fb_conv2d_grad_basis<T>(g, layout, p, map_of<T>(dy), map_of<T>(x),
                                             data_of<T>(v), mutable_data_of<T>(out));
  });
  return as_dtype(op, out, grad.scalar_type());
}

template <typename Backend>
Tensor fb_conv2d_grad_values(Tensor grad, Tensor input, Tensor basis, Tensor pattern,
                             Ints coefficient_shape, Ints stride, Ints padding, Ints dilation,
                             int64_t groups, std::string basis_axis) {
  const char* op = "fb_conv2d_grad_values";
  check_floating(op, "grad", grad);
  check_floating(op, "input", input);
  check_floating(op, "basis", basis);
  const ConvGeometry g =
      check_geometry(op, sizes_of(input), composed_shape(op, sizes_of(basis), coefficient_shape),
                     {stride, padding, dilation, groups});
  const BasisLayout layout = check_basis(op, sizes_of(basis), coefficient_shape, g, basis_axis);
  check_grad(op, grad, g);
  PatternView p = check_pattern(op, pattern, grad, "grad", coefficient_shape);
  check_like(op, "input", input, "grad", grad);
  check_like(op, "basis", basis, "grad", grad);
  Backend backend(grad);
  backend.check_indices(op, pattern, PatternHalf::kForward, &p);
  const Tensor dy = computable(op, grad), x = computable(op, input),
               f = as_contiguous(op, computable(op, basis));
  Tensor out = new_tensor(op, dy, {p.nnz}, dy.scalar_type());
  with_type(op, dy, [&](auto zero) {
    using T = decltype(zero);
    backend.template fb_conv2d_grad_values<T>(g, layout, p, map_of<T>(dy), map_of<T>(x),
                                              data_of<T>(f), mutable_data_of<T>(out));
  });
  return as_dtype(op, out, grad.scalar_type());
}

}  // namespace fbconv::op
