// The affine map of a fully connected layer.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// x [..., in], weight [out, in], bias [out] or left out -> [..., out]: x weight^T + bias, one product with the bias fused.
// Dtypes are promoted. Errors: ShapeError, DTypeError.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, Loc loc = Loc::current());

}  // namespace flame
