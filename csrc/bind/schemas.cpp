// The operators' signatures.  `pattern` is a packed pattern (core/pattern.h), `weight_shape` and
// `coefficient_shape` the dense shape it stands for.  frozen_* are implemented in Python on torch's
// dense convolution: only their weight gradient is ours.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fbconv, m) {
  m.def(
      "sparse_conv2d(Tensor input, Tensor values, Tensor? bias, Tensor pattern, int[] "
      "weight_shape, "
      "int[] stride, int[] padding, int[] dilation, int groups) -> Tensor");
  m.def(
      "sparse_conv2d_grad_input(Tensor grad, Tensor values, Tensor pattern, SymInt[] input_shape, "
      "int[] weight_shape, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor");
  m.def(
      "sparse_conv2d_grad_values(Tensor grad, Tensor input, Tensor pattern, int[] weight_shape, "
      "int[] stride, int[] padding, int[] dilation, int groups) -> Tensor");
  m.def(
      "sparse_linear(Tensor input, Tensor values, Tensor? bias, Tensor pattern, "
      "int[] weight_shape) -> Tensor");
  m.def(
      "sparse_linear_grad_input(Tensor grad, Tensor values, Tensor pattern, "
      "int[] weight_shape) -> Tensor");
  m.def(
      "sparse_linear_grad_values(Tensor grad, Tensor input, Tensor pattern, "
      "int[] weight_shape) -> Tensor");
  m.def(
      "fb_conv2d(Tensor input, Tensor basis, Tensor values, Tensor? bias, Tensor pattern, "
      "int[] coefficient_shape, int[] stride, int[] padding, int[] dilation, int groups, "
      "str basis_axis, str order) -> Tensor");
  m.def(
      "fb_conv2d_grad_input(Tensor grad, Tensor basis, Tensor values, Tensor pattern, "
      "SymInt[] input_shape, int[] coefficient_shape, int[] stride, int[] padding, int[] dilation, "
      "int groups, str basis_axis) -> Tensor");
  m.def(
      "fb_conv2d_grad_basis(Tensor grad, Tensor input, Tensor values, Tensor pattern, "
      "int[] basis_shape, int[] coefficient_shape, int[] stride, int[] padding, int[] dilation, "
      "int groups, "
      "str basis_axis) -> Tensor");
  m.def(
      "fb_conv2d_grad_values(Tensor grad, Tensor input, Tensor basis, Tensor pattern, "
      "int[] coefficient_shape, int[] stride, int[] padding, int[] dilation, int groups, "
      "str basis_axis) -> Tensor");
  m.def(
      "frozen_conv2d(Tensor input, Tensor weight, Tensor values, Tensor? bias, Tensor pattern, "
      "int[] stride, int[] padding, int[] dilation, int groups) -> Tensor");
  m.def(
      "frozen_linear(Tensor input, Tensor weight, Tensor values, Tensor? bias, "
      "Tensor pattern) -> Tensor");
  m.def("embed(Tensor values, Tensor? frozen, Tensor pattern, int[] shape) -> Tensor");
  m.def("gather(Tensor dense, Tensor pattern) -> Tensor");
}
