// The CUDA operators on raw device pointers: each enqueues its kernels on `stream` and returns the
// launch's error.  Shapes are taken on trust, the words of the pattern are not (device.cuh).
// All results are deterministic: reductions have a fixed order and nothing is added atomically.
#pragma once

#include <cuda_runtime_api.h>

#include "../core/geometry.h"
#include "../core/pattern.h"

namespace fbconv {

// Masked sparse convolution: weight = values at the pattern, zero elsewhere.  bias may be null.
template <typename T>
cudaError_t launch_sparse_conv2d(const ConvGeometry& g, const PatternView& p,
                                 MapView<const T> input, const T* values, const T* bias,
                                 MapView<T> output, cudaStream_t stream);
template <typename T>
cudaError_t launch_sparse_conv2d_grad_input(const ConvGeometry& g, const PatternView& p,
                                            MapView<const T> grad, const T* values,
                                            MapView<T> grad_input, cudaStream_t stream);
template <typename T>
cudaError_t launch_sparse_conv2d_grad_values(const ConvGeometry& g, const PatternView& p,
                                             MapView<const T> grad, MapView<const T> input,
                                             T* grad_values, cudaStream_t stream);

// Filter-basis convolution: filter [a, b] = sum_n coefficient [a, b, n] basis [n].
// basis is contiguous (bases, elements, kernel_h, kernel_w).
template <typename T>
cudaError_t launch_fb_conv2d(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                             MapView<const T> input, const T* basis, const T* values, const T* bias,
                             MapView<T> output, cudaStream_t stream);
template <typename T>
cudaError_t launch_fb_conv2d_grad_input(const ConvGeometry& g, const BasisLayout& layout,
                                        const PatternView& p, MapView<const T> grad, const T* basis,
                                        const T* values, MapView<T> grad_input,
                                        cudaStream_t stream);

// The elements of scratch that the two parameter gradients below need.
int64_t fb_grad_values_scratch(const ConvGeometry& g, const PatternView& p);
int64_t fb_grad_basis_scratch(const ConvGeometry& g, const BasisLayout& layout,
                              const PatternView& p);
template <typename T>
cudaError_t launch_fb_conv2d_grad_values(const ConvGeometry& g, const BasisLayout& layout,
                                         const PatternView& p, MapView<const T> grad,
                                         MapView<const T> input, const T* basis, T* scratch,
                                         T* grad_values, cudaStream_t stream);
template <typename T>
cudaError_t launch_fb_conv2d_grad_basis(const ConvGeometry& g, const BasisLayout& layout,
                                        const PatternView& p, MapView<const T> grad,
                                        MapView<const T> input, const T* values, T* scratch,
                                        T* grad_basis, cudaStream_t stream);

// Dense (rows, channels, taps) = frozen (or zeros, if null) with values put at the pattern.
template <typename T>
cudaError_t launch_embed(const PatternView& p, const T* values, const T* frozen, T* dense,
                         cudaStream_t stream);
// The entries of a dense (rows, channels, taps) at the pattern.
template <typename T>
cudaError_t launch_gather_values(const PatternView& p, const T* dense, T* values,
                                 cudaStream_t stream);

}  // namespace fbconv
