// The CPU operators on raw pointers.  Arguments are taken on trust: the binding has checked shapes,
// and the half of the pattern that a pass reads (pattern.h).
#pragma once

#include "../core/geometry.h"
#include "../core/parallel.h"
#include "../core/pattern.h"

namespace fbconv {

// Masked sparse convolution: weight = values at the pattern, zero elsewhere.  bias may be null.
template <typename T>
void sparse_conv2d(const ConvGeometry& g, const PatternView& p, MapView<const T> input,
                   const T* values, const T* bias, MapView<T> output, const Parallel& parallel);
template <typename T>
void sparse_conv2d_grad_input(const ConvGeometry& g, const PatternView& p, MapView<const T> grad,
                              const T* values, MapView<T> grad_input, const Parallel& parallel);
template <typename T>
void sparse_conv2d_grad_values(const ConvGeometry& g, const PatternView& p, MapView<const T> grad,
                               MapView<const T> input, T* grad_values, const Parallel& parallel);

// Filter-basis convolution: filter [a, b] = sum_n coefficient [a, b, n] basis [n].
enum class MixOrder { kBasisFirst, kMixFirst };
template <typename T>
void fb_conv2d(const ConvGeometry& g, const BasisLayout& layout, MixOrder order,
               const PatternView& p, MapView<const T> input, const T* basis, const T* values,
               const T* bias, MapView<T> output, const Parallel& parallel);
template <typename T>
void fb_conv2d_grad_input(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                          MapView<const T> grad, const T* basis, const T* values,
                          MapView<T> grad_input, const Parallel& parallel);
template <typename T>
void fb_conv2d_grad_basis(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                          MapView<const T> grad, MapView<const T> input, const T* values,
                          T* grad_basis, const Parallel& parallel);
template <typename T>
void fb_conv2d_grad_values(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                           MapView<const T> grad, MapView<const T> input, const T* basis,
                           T* grad_values, const Parallel& parallel);

// Dense (rows, channels, taps) = frozen (or zeros, if null) with values put at the pattern.
template <typename T>
void embed(const PatternView& p, const T* values, const T* frozen, T* dense,
           const Parallel& parallel);
// The entries of a dense (rows, channels, taps) at the pattern.
template <typename T>
void gather_values(const PatternView& p, const T* dense, T* values, const Parallel& parallel);

}  // namespace fbconv
