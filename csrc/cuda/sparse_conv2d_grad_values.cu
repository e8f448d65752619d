// The gradient of sparse values: a block per nonzero, whose threads share the positions.
#include "launch.cuh"
#include "ops.h"
#include "sparse_conv.cuh"

namespace fbconv {
namespace {

template <typename T>
__global__ void FBCONV_KERNEL_BOUNDS sparse_grad_values_kernel(DeviceConv c, PatternView p,
                                                               MapView<const T> grad,
                                                               MapView<const T> input,
                                                               T* grad_values) {
  for (int64_t k = blockIdx.x; k < p.nnz; k += gridDim.x) {
    const T sum = block_sum(sparse_value_grad_part(c, p, grad, input, static_cast<int32_t>(k),
                                                   threadIdx.x, blockDim.x));
    if (threadIdx.x == 0) grad_values[k] = sum;
  }
}

}  // namespace

template <typename T>
cudaError_t launch_sparse_conv2d_grad_values(const ConvGeometry& g, const PatternView& p,
                                             MapView<const T> grad, MapView<const T> input,
                                             T* grad_values, cudaStream_t stream) {
  if (p.nnz == 0) return cudaSuccess;
  const DeviceConv c(g);
  sparse_grad_values_kernel<<<blocks_for(p.nnz, 1), threads_for(c.positions()), 0, stream>>>(
      c, p, grad, input, grad_values);
  return cudaGetLastError();
}

#define FBCONV_INSTANTIATE(T)                                                                    \
  template cudaError_t launch_sparse_conv2d_grad_values<T>(const ConvGeometry&,                  \
                                                           const PatternView&, MapView<const T>, \
                                                           MapView<const T>, T*, cudaStream_t);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
