// Layer normalisation (Ba et al. 2016), one launch each way for dense float32 and float64, gradients in closed form.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// (x - mean) / sqrt(var + eps) * weight + bias over the last axes, whose sizes are `normalized`; weight and bias have that
// shape or are left out. Biased variance. float16 and bfloat16 are computed in float32; the result has x's dtype.
Tensor layer_norm(const Tensor& x, const Shape& normalized, const Tensor& weight = {}, const Tensor& bias = {},
                  double eps = 1e-5, Loc loc = Loc::current());

}  // namespace flame
