// One list of operators for every device's registration.
#pragma once

#include <torch/csrc/stable/library.h>

#include "embed.h"
#include "fb_conv2d.h"
#include "sparse_conv2d.h"
#include "sparse_linear.h"

namespace fbconv {

template <typename Backend>
void register_operators(torch::stable::detail::StableLibrary& m) {
  m.impl("sparse_conv2d", TORCH_BOX(&op::sparse_conv2d<Backend>));
  m.impl("sparse_conv2d_grad_input", TORCH_BOX(&op::sparse_conv2d_grad_input<Backend>));
  m.impl("sparse_conv2d_grad_values", TORCH_BOX(&op::sparse_conv2d_grad_values<Backend>));
  m.impl("sparse_linear", TORCH_BOX(&op::sparse_linear<Backend>));
  m.impl("sparse_linear_grad_input", TORCH_BOX(&op::sparse_linear_grad_input<Backend>));
  m.impl("sparse_linear_grad_values", TORCH_BOX(&op::sparse_linear_grad_values<Backend>));
  m.impl("fb_conv2d", TORCH_BOX(&op::fb_conv2d<Backend>));
  m.impl("fb_conv2d_grad_input", TORCH_BOX(&op::fb_conv2d_grad_input<Backend>));
  m.impl("fb_conv2d_grad_basis", TORCH_BOX(&op::fb_conv2d_grad_basis<Backend>));
  m.impl("fb_conv2d_grad_values", TORCH_BOX(&op::fb_conv2d_grad_values<Backend>));
  m.impl("embed", TORCH_BOX(&op::embed<Backend>));
  m.impl("gather", TORCH_BOX(&op::gather<Backend>));
}

}  // namespace fbconv
