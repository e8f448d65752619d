// Masked sparse convolution and its input gradient: a thread per result.
#include "launch.cuh"
#include "ops.h"
#include "sparse_conv.cuh"

namespace fbconv {
namespace {

template <typename T>
__global__ void FBCONV_KERNEL_BOUNDS sparse_conv2d_kernel(DeviceConv c, PatternView p,
                                                          MapView<const T> input, const T* values,
                                                          const T* bias, MapView<T> output) {
  for (int64_t i = first_item(); i < c.outputs(); i += item_stride()) {
    const Site out = site_at(i, c.out_channels, c.out_h, c.out_w);
    element(output, out) = sparse_output(c, p, input, values, bias, out);
  }
}

template <typename T>
__global__ void FBCONV_KERNEL_BOUNDS sparse_grad_input_kernel(DeviceConv c, PatternView p,
                                                              MapView<const T> grad,
                                                              const T* values,
                                                              MapView<T> grad_input) {
  for (int64_t i = first_item(); i < c.inputs(); i += item_stride()) {
    const Site in = site_at(i, c.in_channels, c.in_h, c.in_w);
    element(grad_input, in) = sparse_input_grad(c, p, grad, values, in);
  }
}

}  // namespace

template <typename T>
cudaError_t launch_sparse_conv2d(const ConvGeometry& g, const PatternView& p,
                                 MapView<const T> input, const T* values, const T* bias,
                                 MapView<T> output, cudaStream_t stream) {
  const DeviceConv c(g);
  if (c.outputs() == 0) return cudaSuccess;
  sparse_conv2d_kernel<<<blocks_for(c.outputs(), kThreads), kThreads, 0, stream>>>(
      c, p, input, values, bias, output);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_sparse_conv2d_grad_input(const ConvGeometry& g, const PatternView& p,
                                            MapView<const T> grad, const T* values,
                                            MapView<T> grad_input, cudaStream_t stream) {
  const DeviceConv c(g);
  if (c.inputs() == 0) return cudaSuccess;
  sparse_grad_input_kernel<<<blocks_for(c.inputs(), kThreads), kThreads, 0, stream>>>(
      c, p, grad, values, grad_input);
  return cudaGetLastError();
}

#define FBCONV_INSTANTIATE(T)                                                                      \
  template cudaError_t launch_sparse_conv2d<T>(const ConvGeometry&, const PatternView&,            \
                                               MapView<const T>, const T*, const T*, MapView<T>,   \
                                               cudaStream_t);                                      \
  template cudaError_t launch_sparse_conv2d_grad_input<T>(const ConvGeometry&, const PatternView&, \
                                                          MapView<const T>, const T*, MapView<T>,  \
                                                          cudaStream_t);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
