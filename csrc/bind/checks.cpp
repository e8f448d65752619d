#include "checks.h"

#include <limits>
#include <stdexcept>

namespace fbconv {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
// Scratch grows with the padded map and with the pixels that a stride steps over: beyond these,
// both must be in proportion to the input.
constexpr int64_t kFreePadding = 512, kFreeStride = 1 << 14;

std::string dtype_name(const Tensor& tensor) {
  return torch::headeronly::toString(tensor.scalar_type());
}

std::string device_name(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  return (tensor.is_cuda() ? "cuda:" : "device ") + std::to_string(tensor.get_device_index());
}

void check_pair(const std::string& op, const char* name, const Ints& pair, int64_t least) {
  if (pair.size() != 2 || pair[0] < least || pair[1] < least || pair[0] > kInt32Max ||
      pair[1] > kInt32Max) {
    fail(op, std::string(name) + " must be two integers from " + std::to_string(least) +
                 " to 2^31 - 1, got " + to_text(pair));
  }
}

void check_rank(const std::string& op, const char* name, const Ints& shape, size_t rank,
                const char* axes) {
  if (shape.size() != rank) {
    fail(op, std::string(name) + " must have " + std::to_string(rank) + " dimensions " + axes +
                 ", got shape " + to_text(shape));
  }
}

void check_positive(const std::string& op, const char* name, const Ints& shape) {
  for (const int64_t size : shape) {
    if (size < 1 || size > kInt32Max) {
      fail(op, std::string(name) + " must have sizes from 1 to 2^31 - 1, got " + to_text(shape));
    }
  }
}

void check_defined(const std::string& op, const char* name, const Tensor& tensor) {
  if (!tensor.defined()) fail(op, std::string(name) + " must be a tensor, got None");
}

void check_proportion(const std::string& op, const Ints& input, const ConvOptions& options) {
  for (int i = 0; i < 2; ++i) {
    if (options.padding[i] > kFreePadding && options.padding[i] > input[i]) {
      fail(op, "padding must be at most " + std::to_string(kFreePadding) +
                   " or the input's size, got padding " + to_text(options.padding) + " of input " +
                   to_text(input));
    }
  }
  const double pixels = static_cast<double>(input[0]) * static_cast<double>(input[1]);
  const int64_t stepped = options.stride[0] * options.stride[1];
  if (stepped > kFreeStride && static_cast<double>(stepped) > pixels) {
    fail(op, "stride must step over at most " + std::to_string(kFreeStride) +
                 " pixels or the input's, got stride " + to_text(options.stride) + " of input " +
                 to_text(input));
  }
}

}  // namespace

void fail(const std::string& op, const std::string& message) {
  throw std::runtime_error(op + ": " + message);
}

std::string to_text(const Ints& sizes) {
  std::string text = "(";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + (sizes.size() == 1 ? ",)" : ")");
}

Ints sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return Ints(sizes.begin(), sizes.end());
}

ConvGeometry check_geometry(const std::string& op, const Ints& input_shape,
                            const Ints& weight_shape, const ConvOptions& options) {
  check_rank(op, "input", input_shape, 4, "(batch, channels, height, width)");
  check_rank(op, "weight_shape", weight_shape, 4, "(C_out, C_in / groups, KH, KW)");
  check_positive(op, "weight_shape", weight_shape);
  if (weight_shape[2] > kInt32Max / weight_shape[3]) {
    fail(op, "weight_shape must have fewer than 2^31 taps, got " + to_text(weight_shape));
  }
  check_pair(op, "stride", options.stride, 1);
  check_pair(op, "padding", options.padding, 0);
  check_pair(op, "dilation", options.dilation, 1);
  if (options.groups < 1 || weight_shape[0] % options.groups != 0) {
    fail(op, "groups must divide the " + std::to_string(weight_shape[0]) +
                 " output channels, got " + std::to_string(options.groups));
  }
  if (input_shape[1] != weight_shape[1] * options.groups) {
    fail(op, "input must have " + std::to_string(weight_shape[1] * options.groups) +
                 " channels (weight shape " + to_text(weight_shape) + ", groups " +
                 std::to_string(options.groups) + "), got " + std::to_string(input_shape[1]));
  }
  check_proportion(op, {input_shape[2], input_shape[3]}, options);
  const ConvGeometry g{input_shape[0],      input_shape[1],     input_shape[2],
                       input_shape[3],      weight_shape[0],    weight_shape[2],
                       weight_shape[3],     options.stride[0],  options.stride[1],
                       options.padding[0],  options.padding[1], options.dilation[0],
                       options.dilation[1], options.groups};
  const int64_t padded_h = g.in_h + 2 * g.pad_h, padded_w = g.in_w + 2 * g.pad_w;
  const int64_t span_h = g.dilation_h * (g.kernel_h - 1) + 1;
  const int64_t span_w = g.dilation_w * (g.kernel_w - 1) + 1;
  if (g.in_h < 1 || g.in_w < 1 || padded_h < span_h || padded_w < span_w) {
    fail(op, "input must be at least as large as the kernel: padded input " +
                 to_text({padded_h, padded_w}) + ", dilated kernel " + to_text({span_h, span_w}));
  }
  return g;
}

ConvGeometry linear_geometry(const std::string& op, int64_t batch, const Ints& weight_shape) {
  check_rank(op, "weight_shape", weight_shape, 2, "(out_features, in_features)");
  check_positive(op, "weight_shape", weight_shape);
  return {1, weight_shape[1], batch, 1, weight_shape[0], 1, 1, 1, 1, 0, 0, 1, 1, 1};
}

void check_floating(const std::string& op, const char* name, const Tensor& tensor) {
  check_defined(op, name, tensor);
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
    case ScalarType::Double:
    case ScalarType::BFloat16:
    case ScalarType::Half:
      return;
    default:
      fail(op, std::string(name) + " must be float32, float64, bfloat16 or float16, got " +
                   dtype_name(tensor));
  }
}

void check_like(const std::string& op, const char* name, const Tensor& tensor,
                const char* first_name, const Tensor& first) {
  check_defined(op, name, tensor);
  if (tensor.scalar_type() != first.scalar_type()) {
    fail(op, std::string(name) + " must have " + first_name + "'s dtype " + dtype_name(first) +
                 ", got " + dtype_name(tensor));
  }
  if (device_name(tensor) != device_name(first)) {
    fail(op, std::string(name) + " must be on " + first_name + "'s device " + device_name(first) +
                 ", got " + device_name(tensor));
  }
}

void check_shape(const std::string& op, const char* name, const Tensor& tensor,
                 const Ints& expected) {
  const Ints got = sizes_of(tensor);
  if (got != expected) {
    fail(op, std::string(name) + " must have shape " + to_text(expected) + ", got " + to_text(got));
  }
}

PatternView check_pattern(const std::string& op, const Tensor& pattern, const Tensor& first,
                          const char* first_name, const Ints& shape) {
  if (shape.size() < 2)
    fail(op, "the pattern's shape must have two or more dimensions, got " + to_text(shape));
  check_defined(op, "pattern", pattern);
  check_positive(op, "the pattern's shape", shape);
  if (pattern.scalar_type() != ScalarType::Int || pattern.dim() != 1 || !pattern.is_contiguous()) {
    fail(op, "pattern must be a contiguous int32 vector (SparsePattern.packed), got " +
                 dtype_name(pattern) + " of shape " + to_text(sizes_of(pattern)));
  }
  if (device_name(pattern) != device_name(first)) {
    fail(op, std::string("pattern must be on ") + first_name + "'s device " + device_name(first) +
                 ", got " + device_name(pattern));
  }
  int64_t taps = 1;
  for (size_t i = 2; i < shape.size(); ++i) {
    taps *= shape[i];
    if (taps > kInt32Max) break;
  }
  if (shape[0] > kInt32Max / taps || shape[1] > kInt32Max / taps) {
    fail(op,
         "the pattern's rows and channels times taps must stay below 2^31, got " + to_text(shape));
  }
  const int64_t nnz = pattern_nnz(pattern.numel(), shape[0], shape[1]);
  if (nnz < 0 || nnz > kInt32Max) {
    fail(op, "pattern has " + std::to_string(pattern.numel()) +
                 " words, which no packed pattern of shape " + to_text(shape) + " has");
  }
  return view_pattern(static_cast<const int32_t*>(pattern.data_ptr()), shape[0], shape[1], taps,
                      nnz);
}

void check_values(const std::string& op, const Tensor& values, const PatternView& pattern) {
  const Ints got = sizes_of(values);
  if (got != Ints{pattern.nnz}) {
    fail(op, "values must have shape (" + std::to_string(pattern.nnz) +
                 ",), one for each entry of the pattern, got " + to_text(got));
  }
}

Ints composed_shape(const std::string& op, const Ints& basis_shape, const Ints& coefficient_shape) {
  check_rank(op, "basis", basis_shape, 4, "(n_bases, n_elements, KH, KW)");
  check_rank(op, "coefficient_shape", coefficient_shape, 3, "(C_out, C_in / groups, n_elements)");
  if (basis_shape[1] != coefficient_shape[2]) {
    fail(op, "basis must have " + std::to_string(coefficient_shape[2]) +
                 " elements (coefficients of shape " + to_text(coefficient_shape) + "), got " +
                 std::to_string(basis_shape[1]));
  }
  return {coefficient_shape[0], coefficient_shape[1], basis_shape[2], basis_shape[3]};
}

BasisLayout check_basis(const std::string& op, const Ints& basis_shape,
                        const Ints& coefficient_shape, const ConvGeometry& geometry,
                        const std::string& basis_axis) {
  check_positive(op, "basis", basis_shape);
  check_positive(op, "coefficient_shape", coefficient_shape);
  if (basis_axis != "in" && basis_axis != "out") {
    fail(op, "basis_axis must be \"in\" or \"out\", got \"" + basis_axis + "\"");
  }
  const bool per_output = basis_axis == "out";
  const int64_t channels = per_output ? geometry.out_channels : geometry.in_channels;
  if (channels % basis_shape[0] != 0) {
    fail(op, "basis must hold a number of bases that divides the " + std::to_string(channels) +
                 (per_output ? " output" : " input") + " channels, got " +
                 std::to_string(basis_shape[0]));
  }
  return {basis_shape[0], basis_shape[1], per_output};
}

}  // namespace fbconv
