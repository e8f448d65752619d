// Argument checks shared by all devices.  Every error names the operator, the argument, what was
// expected and what came.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "../core/geometry.h"
#include "../core/pattern.h"

namespace fbconv {

using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

struct ConvOptions {
  const Ints &stride, &padding, &dilation;
  int64_t groups;
};

[[noreturn]] void fail(const std::string& op, const std::string& message);
std::string to_text(const Ints& sizes);
Ints sizes_of(const Tensor& tensor);

// The geometry of a convolution of an input of this shape; checks everything but tensors.
ConvGeometry check_geometry(const std::string& op, const Ints& input_shape,
                            const Ints& weight_shape, const ConvOptions& options);
// A linear layer as a convolution with the batch along the rows.
ConvGeometry linear_geometry(const std::string& op, int64_t batch, const Ints& weight_shape);

void check_floating(const std::string& op, const char* name, const Tensor& tensor);
// Same dtype and device as the operator's first tensor.
void check_like(const std::string& op, const char* name, const Tensor& tensor,
                const char* first_name, const Tensor& first);
void check_shape(const std::string& op, const char* name, const Tensor& tensor,
                 const Ints& expected);

// The view of a packed pattern of shape (rows, channels, ...taps): dtype, device, word count.
PatternView check_pattern(const std::string& op, const Tensor& pattern, const Tensor& first,
                          const char* first_name, const Ints& shape);
void check_values(const std::string& op, const Tensor& values, const PatternView& pattern);

BasisLayout check_basis(const std::string& op, const Ints& basis_shape,
                        const Ints& coefficient_shape, const ConvGeometry& geometry,
                        const std::string& basis_axis);
// The weight shape (C_out, C_in / groups, KH, KW) that basis and coefficients compose to.
Ints composed_shape(const std::string& op, const Ints& basis_shape, const Ints& coefficient_shape);

}  // namespace fbconv
