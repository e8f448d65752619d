// The dense plans of layers that are only used: torch's convolution and linear layer, with a dense
// weight that is kept from call to call.  What is not kept Python makes (_dense_weights.py), and it
// knows where torch must not be trusted with half precision (_ops/torch_conv.py).
#include <torch/csrc/stable/library.h>

#include <array>
#include <string>

#include "../cpu/fingerprint.h"
#include "checks.h"
#include "kept_weights.h"
#include "tensors.h"

namespace fbconv {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

template <typename Result, typename... Arguments>
Result call_torch(const char* op, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(arguments)> stack{from(arguments)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION));
  return to<Result>(stack[0]);
}

// What a layer's dense weight is made of.
struct Recipe {
  const Tensor& values;
  const std::optional<Tensor>&frozen, &basis;
  const Tensor& pattern;
  const Ints& shape;
  int64_t groups;
  const std::string& basis_axis;
  bool channels_last;
};

// All of its memory, in whatever order, is numel() elements from data_ptr() on.
bool has_readable_memory(const Tensor& t) {
  const bool dense = t.is_contiguous() ||
                     (is_channels_last(t) && t.stride(0) == t.size(1) * t.size(2) * t.size(3));
  return t.is_cpu() && dense;
}

// Versions of tensors made in inference mode are not counted.
bool has_version(const Tensor& t) {
  return t.is_cpu() && !call_torch<bool>("aten::is_inference", t);
}

bool keepable(const Recipe& r) {
  return has_readable_memory(r.values) && (!r.basis || has_readable_memory(*r.basis)) &&
         has_version(r.pattern) && (!r.frozen || has_version(*r.frozen));
}

void add_layout(const Tensor& t, Ints* state) {
  state->insert(state->end(), {static_cast<int64_t>(t.scalar_type()), t.dim()});
  for (int64_t i = 0; i < t.dim(); ++i) state->insert(state->end(), {t.size(i), t.stride(i)});
}

// Learned tensors are known by their contents: optimizers and averages write where no version
// counts.
void add_content(const Tensor& t, Ints* state) {
  const Fingerprint print = fingerprint(t.data_ptr(), t.numel() * t.element_size());
  state->insert(state->end(), {static_cast<int64_t>(print.low), static_cast<int64_t>(print.high)});
  add_layout(t, state);
}

// Fixed ones (patterns, frozen weights), which no optimizer touches, by identity and version.
void add_version(const Tensor& t, Ints* state) {
  state->insert(state->end(), {reinterpret_cast<int64_t>(t.data_ptr()),
                               call_torch<int64_t>("aten::_version", t)});
  add_layout(t, state);
}

Ints state_of(const Recipe& r) {
  Ints state{r.frozen.has_value(), r.basis.has_value(), r.groups, r.basis_axis == "in",
             r.channels_last};
  state.insert(state.end(), r.shape.begin(), r.shape.end());
  add_content(r.values, &state);
  if (r.basis) add_content(*r.basis, &state);
  add_version(r.pattern, &state);
  if (r.frozen) add_version(*r.frozen, &state);
  return state;
}

Tensor make(const Recipe& r) {
  return call_torch<Tensor>("fbconv::dense_weight", r.values, r.frozen, r.basis, r.pattern, r.shape,
                            r.groups, r.basis_axis, r.channels_last);
}

Tensor dense_weight(const Recipe& r) {
  if (!keepable(r)) return make(r);
  const auto owner = reinterpret_cast<uintptr_t>(r.values.data_ptr());
  Ints state = state_of(r);
  if (std::optional<Tensor> found = kept_weights().find(owner, state)) return *found;
  const Tensor weight = make(r);
  const int64_t bytes = weight.numel() * static_cast<int64_t>(weight.element_size());
  if (call_torch<bool>("fbconv::may_keep_weight", r.values, bytes)) {
    KeptWeight kept{std::move(state), weight, {r.pattern}};
    if (r.frozen) kept.sources.push_back(*r.frozen);
    kept_weights().keep(owner, std::move(kept));
  }
  return weight;
}

// As torch's convolution sees it; of single pixels, or taps, both formats have the same bits in the
// same order.
bool wants_channels_last(const Tensor& t) {
  return t.dim() == 4 && t.stride(1) == 1 && (t.size(2) != 1 || t.size(3) != 1);
}

// What the called operators say of an argument is lost on the way through torch's stable interface.
template <typename F>
Tensor named(const char* op, const Tensor& input, const Ints& shape, const F& call) {
  try {
    return call();
  } catch (const std::exception&) {
    fail(op, "input of shape " + to_text(sizes_of(input)) + " and a weight of shape " +
                 to_text(shape) + " must fit each other, values, frozen, bias and pattern");
  }
}

Tensor dense_conv2d(Tensor input, Tensor values, std::optional<Tensor> frozen,
                    std::optional<Tensor> basis, std::optional<Tensor> bias, Tensor pattern,
                    Ints shape, Ints stride, Ints padding, Ints dilation, int64_t groups,
                    std::string basis_axis) {
  const char* op = "dense_conv2d";
  check_floating(op, "input", input);
  check_floating(op, "values", values);
  const bool channels_last = wants_channels_last(input) || (frozen && wants_channels_last(*frozen));
  const Tensor output = named(op, input, shape, [&] {
    const Tensor weight =
        dense_weight({values, frozen, basis, pattern, shape, groups, basis_axis, channels_last});
    const char* conv2d = is_half_precision(input) ? "fbconv::half_conv2d" : "aten::conv2d";
    return call_torch<Tensor>(conv2d, input, weight, bias, stride, padding, dilation, groups);
  });
  if (channels_last) return torch::stable::contiguous(output, MemoryFormat::ChannelsLast);
  return as_contiguous("dense_conv2d", output);
}

Tensor dense_linear(Tensor input, Tensor values, std::optional<Tensor> frozen,
                    std::optional<Tensor> bias, Tensor pattern, Ints shape) {
  const char* op = "dense_linear";
  check_floating(op, "input", input);
  check_floating(op, "values", values);
  if (bias && !shape.empty()) check_shape(op, "bias", *bias, {shape[0]});  // torch would stretch it
  const std::optional<Tensor> no_basis;
  const std::string any_axis = "in";
  return named(op, input, shape, [&] {
    const Tensor weight =
        dense_weight({values, frozen, no_basis, pattern, shape, 1, any_axis, false});
    return call_torch<Tensor>("aten::linear", input, weight, bias);
  });
}

}  // namespace
}  // namespace fbconv

STABLE_TORCH_LIBRARY_IMPL(fbconv, CompositeExplicitAutograd, m) {
  for (const std::string overload : {"", ".kernel"}) {
    m.impl(("dense_conv2d" + overload).c_str(), TORCH_BOX(&fbconv::dense_conv2d));
    m.impl(("dense_linear" + overload).c_str(), TORCH_BOX(&fbconv::dense_linear));
  }
}
