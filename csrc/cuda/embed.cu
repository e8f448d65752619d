// Values to and from a dense tensor: a thread per value.
#include "dense.cuh"
#include "launch.cuh"
#include "ops.h"

namespace fbconv {
namespace {

template <typename T>
__global__ void FBCONV_KERNEL_BOUNDS embed_kernel(PatternView p, const T* values, T* dense) {
  for (int64_t k = first_item(); k < p.nnz; k += item_stride()) {
    const int64_t place = dense_place(p, static_cast<int32_t>(k));
    if (place >= 0) dense[place] = values[k];
  }
}

template <typename T>
__global__ void FBCONV_KERNEL_BOUNDS gather_values_kernel(PatternView p, const T* dense,
                                                          T* values) {
  for (int64_t k = first_item(); k < p.nnz; k += item_stride()) {
    const int64_t place = dense_place(p, static_cast<int32_t>(k));
    values[k] = place >= 0 ? dense[place] : T(0);
  }
}

}  // namespace

template <typename T>
cudaError_t launch_embed(const PatternView& p, const T* values, const T* frozen, T* dense,
                         cudaStream_t stream) {
  const size_t bytes = sizeof(T) * static_cast<size_t>(p.rows * p.channels * p.taps);
  if (bytes == 0) return cudaSuccess;
  const cudaError_t error =
      frozen != nullptr ? cudaMemcpyAsync(dense, frozen, bytes, cudaMemcpyDeviceToDevice, stream)
                        : cudaMemsetAsync(dense, 0, bytes, stream);
  if (error != cudaSuccess || p.nnz == 0) return error;
  embed_kernel<<<blocks_for(p.nnz, kThreads), kThreads, 0, stream>>>(p, values, dense);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_gather_values(const PatternView& p, const T* dense, T* values,
                                 cudaStream_t stream) {
  if (p.nnz == 0) return cudaSuccess;
  gather_values_kernel<<<blocks_for(p.nnz, kThreads), kThreads, 0, stream>>>(p, dense, values);
  return cudaGetLastError();
}

#define FBCONV_INSTANTIATE(T)                                                                     \
  template cudaError_t launch_embed<T>(const PatternView&, const T*, const T*, T*, cudaStream_t); \
  template cudaError_t launch_gather_values<T>(const PatternView&, const T*, T*, cudaStream_t);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
