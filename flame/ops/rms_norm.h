// Root mean square normalisation (Zhang and Sennrich 2019), composed of island ops with the gradient in closed form.
#pragma once
#include <optional>

#include "flame/tensor/tensor.h"

namespace flame {

// x / sqrt(mean(x^2) + eps) * weight over the last axes, whose sizes are `normalized`; the weight has that shape or is left
// out. eps: if left out, the distance from 1 to the next number of x's dtype, as in PyTorch. float16 and bfloat16 are
// computed in float32; the result has x's dtype. Errors: ShapeError, DTypeError.
Tensor rms_norm(const Tensor& x, const Shape& normalized, const Tensor& weight = {}, std::optional<double> eps = {},
                Loc loc = Loc::current());

}  // namespace flame
