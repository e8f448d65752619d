// Masked passes over maps that are read where they lie.
#pragma once

#include "../core/geometry.h"
#include "../core/parallel.h"
#include "../core/pattern.h"

namespace fbconv {

// Each does its pass and returns true where that is possible, and better than on packed tiles.
template <typename T>
bool sparse_conv2d_in_place(const ConvGeometry& g, const PatternView& p, MapView<const T> input,
                            const T* values, const T* bias, MapView<T> output,
                            const Parallel& parallel);
template <typename T>
bool sparse_conv2d_grad_input_in_place(const ConvGeometry& g, const PatternView& p,
                                       MapView<const T> grad, const T* values,
                                       MapView<T> grad_input, const Parallel& parallel);
template <typename T>
bool sparse_conv2d_grad_values_in_place(const ConvGeometry& g, const PatternView& p,
                                        MapView<const T> grad, MapView<const T> input,
                                        T* grad_values, const Parallel& parallel);

}  // namespace fbconv
