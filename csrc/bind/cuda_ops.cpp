// The operators on CUDA devices: the current stream under the kernels of csrc/cuda.
#ifdef FBCONV_WITH_CUDA
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <type_traits>

#include "../cuda/ops.h"
#include "register.h"

namespace fbconv {
namespace {

void check(cudaError_t error) { STD_CUDA_CHECK(error); }

cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

class CudaBackend {
 public:
  explicit CudaBackend(const Tensor& first)
      : first_(first),
        guard_(first.get_device_index()),
        stream_(current_stream(first.get_device_index())) {}

  // Reading the words here would wait for the device; the kernels test every index instead.
  void check_indices(const char*, const Tensor&, PatternHalf, PatternView*) const {}

#define FBCONV_FORWARD_TO_CUDA(name)                \
  template <typename T, typename... Arguments>      \
  void name(const Arguments&... arguments) const {  \
    check(launch_##name<T>(arguments..., stream_)); \
  }
  FBCONV_FORWARD_TO_CUDA(sparse_conv2d)
  FBCONV_FORWARD_TO_CUDA(sparse_conv2d_grad_input)
  FBCONV_FORWARD_TO_CUDA(sparse_conv2d_grad_values)
  FBCONV_FORWARD_TO_CUDA(fb_conv2d_grad_input)
  FBCONV_FORWARD_TO_CUDA(embed)
  FBCONV_FORWARD_TO_CUDA(gather_values)
#undef FBCONV_FORWARD_TO_CUDA

  // The kernels keep no intermediate map, so both orders are one computation.
  template <typename T, typename... Arguments>
  void fb_conv2d(const ConvGeometry& g, const BasisLayout& layout, MixOrder,
                 const Arguments&... arguments) const {
    check(launch_fb_conv2d<T>(g, layout, arguments..., stream_));
  }

  template <typename T>
  void fb_conv2d_grad_basis(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                            MapView<const T> grad, MapView<const T> input, const T* values,
                            T* grad_basis) const {
    const Tensor scratch = scratch_of<T>(fb_grad_basis_scratch(g, layout, p));
    check(launch_fb_conv2d_grad_basis<T>(g, layout, p, grad, input, values,
                                         mutable_data_of<T>(scratch), grad_basis, stream_));
  }

  template <typename T>
  void fb_conv2d_grad_values(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                             MapView<const T> grad, MapView<const T> input, const T* basis,
                             T* grad_values) const {
    const Tensor scratch = scratch_of<T>(fb_grad_values_scratch(g, p));
    check(launch_fb_conv2d_grad_values<T>(g, layout, p, grad, input, basis,
                                          mutable_data_of<T>(scratch), grad_values, stream_));
  }

 private:
  // Freed on return while kernels still use it: torch's allocator hands it out again in stream
  // order.
  template <typename T>
  Tensor scratch_of(int64_t elements) const {
    constexpr bool is_double = std::is_same_v<T, double>;
    return new_tensor("scratch", first_, {elements},
                      is_double ? ScalarType::Double : ScalarType::Float);
  }

  const Tensor& first_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace
}  // namespace fbconv

STABLE_TORCH_LIBRARY_IMPL(fbconv, CUDA, m) { fbconv::register_operators<fbconv::CudaBackend>(m); }
#endif
