// The gradients of coefficients and basis.  Scratch starts with the correlations (nnz, taps), a
// block for each; the basis gradient adds one partial sum per chunk of rows behind them.
#include "basis_conv.cuh"
#include "launch.cuh"
#include "ops.h"

namespace fbconv {
namespace {

template <typename T>
__global__ void FBCONV_KERNEL_BOUNDS correlations_kernel(DeviceConv c, PatternView p,
                                                         MapView<const T> grad,
                                                         MapView<const T> input, T* correlations) {
  for (int64_t i = blockIdx.x; i < p.nnz * c.taps; i += gridDim.x) {
    const int32_t k = static_cast<int32_t>(i / c.taps), tap = static_cast<int32_t>(i % c.taps);
    T part;
    // The answer is the same for all threads of the block, so all or none reach block_sum.
    if (!correlation_part_of(c, p, grad, input, k, tap, threadIdx.x, blockDim.x, &part)) continue;
    const T sum = block_sum(part);
    if (threadIdx.x == 0) correlations[i] = sum;
  }
}

template <typename T>
__global__ void FBCONV_KERNEL_BOUNDS fb_grad_values_kernel(DeviceConv c, DeviceBasis b,
                                                           PatternView p, const T* basis,
                                                           const T* correlations, T* grad_values) {
  for (int64_t k = first_item(); k < p.nnz; k += item_stride()) {
    grad_values[k] = basis_value_grad(c, b, p, basis, correlations, static_cast<int32_t>(k));
  }
}

// parts is (chunks, bases, elements, taps).
template <typename T>
__global__ void FBCONV_KERNEL_BOUNDS fb_grad_basis_parts_kernel(DeviceConv c, DeviceBasis b,
                                                                BasisChunks chunks, PatternView p,
                                                                const T* values,
                                                                const T* correlations, T* parts) {
  const int64_t count = chunks.chunks * b.bases * b.elements * c.taps;
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    const Site at = site_at(i, b.bases, b.elements, c.taps);
    parts[i] = basis_grad_part(c, b, chunks, p, values, correlations, at.image, at.channel,
                               static_cast<int32_t>(at.row), static_cast<int32_t>(at.column));
  }
}

template <typename T>
__global__ void FBCONV_KERNEL_BOUNDS sum_parts_kernel(const T* parts, int64_t chunks, int64_t count,
                                                      T* total) {
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    T sum = T(0);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += parts[chunk * count + i];
    total[i] = sum;
  }
}

template <typename T>
cudaError_t launch_correlations(const DeviceConv& c, const PatternView& p, MapView<const T> grad,
                                MapView<const T> input, T* correlations, cudaStream_t stream) {
  correlations_kernel<<<blocks_for(p.nnz * c.taps, 1), threads_for(c.positions()), 0, stream>>>(
      c, p, grad, input, correlations);
  return cudaGetLastError();
}

}  // namespace

int64_t fb_grad_values_scratch(const ConvGeometry& g, const PatternView& p) {
  return p.nnz * g.taps();
}

int64_t fb_grad_basis_scratch(const ConvGeometry& g, const BasisLayout& layout,
                              const PatternView& p) {
  return (p.nnz + BasisChunks(g, layout).chunks * layout.bases * layout.elements) * g.taps();
}

template <typename T>
cudaError_t launch_fb_conv2d_grad_values(const ConvGeometry& g, const BasisLayout& layout,
                                         const PatternView& p, MapView<const T> grad,
                                         MapView<const T> input, const T* basis, T* scratch,
                                         T* grad_values, cudaStream_t stream) {
  if (p.nnz == 0) return cudaSuccess;
  const DeviceConv c(g);
  const cudaError_t error = launch_correlations(c, p, grad, input, scratch, stream);
  if (error != cudaSuccess) return error;
  fb_grad_values_kernel<<<blocks_for(p.nnz, kThreads), kThreads, 0, stream>>>(
      c, DeviceBasis(g, layout), p, basis, scratch, grad_values);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_fb_conv2d_grad_basis(const ConvGeometry& g, const BasisLayout& layout,
                                        const PatternView& p, MapView<const T> grad,
                                        MapView<const T> input, const T* values, T* scratch,
                                        T* grad_basis, cudaStream_t stream) {
  const DeviceConv c(g);
  const DeviceBasis b(g, layout);
  const BasisChunks chunks(g, layout);
  const int64_t count = layout.bases * layout.elements * c.taps;
  if (p.nnz == 0) return cudaMemsetAsync(grad_basis, 0, count * sizeof(T), stream);
  cudaError_t error = launch_correlations(c, p, grad, input, scratch, stream);
  if (error != cudaSuccess) return error;
  T* parts = scratch + p.nnz * c.taps;
  fb_grad_basis_parts_kernel<<<blocks_for(chunks.chunks * count, kThreads), kThreads, 0, stream>>>(
      c, b, chunks, p, values, scratch, parts);
  error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  sum_parts_kernel<<<blocks_for(count, kThreads), kThreads, 0, stream>>>(parts, chunks.chunks,
                                                                         count, grad_basis);
  return cudaGetLastError();
}

#define FBCONV_INSTANTIATE(T)                                                        \
  template cudaError_t launch_fb_conv2d_grad_values<T>(                              \
      const ConvGeometry&, const BasisLayout&, const PatternView&, MapView<const T>, \
      MapView<const T>, const T*, T*, T*, cudaStream_t);                             \
  template cudaError_t launch_fb_conv2d_grad_basis<T>(                               \
      const ConvGeometry&, const BasisLayout&, const PatternView&, MapView<const T>, \
      MapView<const T>, const T*, T*, T*, cudaStream_t);
FBCONV_INSTANTIATE(float)
FBCONV_INSTANTIATE(double)
#undef FBCONV_INSTANTIATE

}  // namespace fbconv
