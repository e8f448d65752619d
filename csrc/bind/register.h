// One list of operators for every device's registration.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

#include "embed.h"
#include "fb_conv2d.h"
#include "sparse_conv2d.h"
#include "sparse_linear.h"

namespace fbconv {

template <typename Backend>
void register_operators(torch::stable::detail::StableLibrary& m) {
  const auto both = [&m](const std::string& name, auto* kernel) {
    m.impl(name.c_str(), kernel);
    m.impl((name + ".kernel").c_str(), kernel);
  };
  both("sparse_conv2d", TORCH_BOX(&op::sparse_conv2d<Backend>));
  both("sparse_conv2d_grad_input", TORCH_BOX(&op::sparse_conv2d_grad_input<Backend>));
  both("sparse_conv2d_grad_values", TORCH_BOX(&op::sparse_conv2d_grad_values<Backend>));
  both("sparse_linear", TORCH_BOX(&op::sparse_linear<Backend>));
  both("sparse_linear_grad_input", TORCH_BOX(&op::sparse_linear_grad_input<Backend>));
  both("sparse_linear_grad_values", TORCH_BOX(&op::sparse_linear_grad_values<Backend>));
  both("fb_conv2d", TORCH_BOX(&op::fb_conv2d<Backend>));
  both("fb_conv2d_grad_input", TORCH_BOX(&op::fb_conv2d_grad_input<Backend>));
  both("fb_conv2d_grad_basis", TORCH_BOX(&op::fb_conv2d_grad_basis<Backend>));
  both("fb_conv2d_grad_values", TORCH_BOX(&op::fb_conv2d_grad_values<Backend>));
  both("embed", TORCH_BOX(&op::embed<Backend>));
  both("gather", TORCH_BOX(&op::gather<Backend>));
}

}  // namespace fbconv
