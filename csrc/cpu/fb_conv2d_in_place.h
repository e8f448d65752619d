// Filter-basis passes over maps that are read where they lie, by compiled patterns.
#pragma once

#include "ops.h"

namespace fbconv {

// Each does its pass and returns true where it can: same-size maps without gaps, and code that may
// be made.
bool fb_conv2d_in_place(const ConvGeometry& g, const BasisLayout& layout, const PatternView& p,
                        MapView<const float> input, const float* basis, const float* values,
                        const float* bias, MapView<float> output, const Parallel& parallel);
bool fb_conv2d_grad_input_in_place(const ConvGeometry& g, const BasisLayout& layout,
                                   const PatternView& p, MapView<const float> grad,
                                   const float* basis, const float* values,
                                   MapView<float> grad_input, const Parallel& parallel);
bool fb_conv2d_grad_basis_in_place(const ConvGeometry& g, const BasisLayout& layout,
                                   const PatternView& p, MapView<const float> grad,
                                   MapView<const float> input, const float* values,
                                   float* grad_basis, const Parallel& parallel);
bool fb_conv2d_grad_values_in_place(const ConvGeometry& g, const BasisLayout& layout,
                                    const PatternView& p, MapView<const float> grad,
                                    MapView<const float> input, const float* basis,
                                    float* grad_values, const Parallel& parallel);

}  // namespace fbconv
