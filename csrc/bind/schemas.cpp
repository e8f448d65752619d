// The operators' signatures.  `pattern` is a packed pattern (core/pattern.h), `weight_shape` and
// `coefficient_shape` the dense shape it stands for.  frozen_* are implemented in Python on torch's
// dense convolution: only their weight gradient is ours.  So are the two *_weight and half_conv2d,
// which dense_* call.
#include <torch/csrc/stable/library.h>

#include <string>

namespace {

// Each operator twice: the overload `kernel` is the same without autograd, whose registration is in
// Python and doubles the cost of a small call.  Autograd itself and compiled graphs call that one.
void define(torch::stable::detail::StableLibrary& m, const std::string& name,
            const std::string& signature) {
  m.def((name + signature).c_str());
  m.def((name + ".kernel" + signature).c_str());
}

}  // namespace

STABLE_TORCH_LIBRARY(fbconv, m) {
  define(m, "sparse_conv2d",
         "(Tensor input, Tensor values, Tensor? bias, Tensor pattern, int[] "
         "weight_shape, int[] stride, int[] padding, int[] dilation, int groups) -> "
         "Tensor");
  define(m, "sparse_conv2d_grad_input",
         "(Tensor grad, Tensor values, Tensor pattern, SymInt[] input_shape, int[] "
         "weight_shape, int[] stride, int[] padding, int[] dilation, int groups) -> "
         "Tensor");
  define(m, "sparse_conv2d_grad_values",
         "(Tensor grad, Tensor input, Tensor pattern, int[] weight_shape, int[] stride, "
         "int[] padding, int[] dilation, int groups) -> Tensor");
  define(m, "sparse_linear",
         "(Tensor input, Tensor values, Tensor? bias, Tensor pattern, int[] "
         "weight_shape) -> Tensor");
  define(m, "sparse_linear_grad_input",
         "(Tensor grad, Tensor values, Tensor pattern, int[] weight_shape) -> Tensor");
  define(m, "sparse_linear_grad_values",
         "(Tensor grad, Tensor input, Tensor pattern, int[] weight_shape) -> Tensor");
  define(m, "fb_conv2d",
         "(Tensor input, Tensor basis, Tensor values, Tensor? bias, Tensor pattern, "
         "int[] coefficient_shape, int[] stride, int[] padding, int[] dilation, int "
         "groups, str basis_axis, str order) -> Tensor");
  define(m, "fb_conv2d_grad_input",
         "(Tensor grad, Tensor basis, Tensor values, Tensor pattern, SymInt[] "
         "input_shape, int[] coefficient_shape, int[] stride, int[] padding, int[] "
         "dilation, int groups, str basis_axis) -> Tensor");
  define(m, "fb_conv2d_grad_basis",
         "(Tensor grad, Tensor input, Tensor values, Tensor pattern, int[] basis_shape, "
         "int[] coefficient_shape, int[] stride, int[] padding, int[] dilation, int "
         "groups, str basis_axis) -> Tensor");
  define(m, "fb_conv2d_grad_values",
         "(Tensor grad, Tensor input, Tensor basis, Tensor pattern, int[] "
         "coefficient_shape, int[] stride, int[] padding, int[] dilation, int groups, "
         "str basis_axis) -> Tensor");
  define(m, "frozen_conv2d",
         "(Tensor input, Tensor weight, Tensor values, Tensor? bias, Tensor pattern, "
         "int[] stride, int[] padding, int[] dilation, int groups) -> Tensor");
  define(m, "frozen_linear",
         "(Tensor input, Tensor weight, Tensor values, Tensor? bias, Tensor pattern) -> "
         "Tensor");
  define(m, "dense_conv2d",
         "(Tensor input, Tensor values, Tensor? frozen, Tensor? basis, Tensor? bias, Tensor "
         "pattern, int[] shape, int[] stride, int[] padding, int[] dilation, int groups, str "
         "basis_axis) -> Tensor");
  define(m, "dense_linear",
         "(Tensor input, Tensor values, Tensor? frozen, Tensor? bias, Tensor pattern, int[] "
         "shape) -> Tensor");
  m.def(
      "dense_weight(Tensor values, Tensor? frozen, Tensor? basis, Tensor pattern, int[] shape, int "
      "groups, str basis_axis, bool channels_last) -> Tensor");
  m.def("may_keep_weight(Tensor values, int bytes) -> bool");
  m.def(
      "half_conv2d(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] "
      "dilation, int groups) -> Tensor");
  define(m, "embed", "(Tensor values, Tensor? frozen, Tensor pattern, int[] shape) -> Tensor");
  define(m, "gather", "(Tensor dense, Tensor pattern) -> Tensor");
}
