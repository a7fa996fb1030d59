// The affine map of a fully connected layer, alone or twice with an activation between.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

struct LinearOptions {
  Activation activation = Activation::none;  // of the sum; floating dtypes
};

// x [..., in], weight [out, in], bias [out] or left out -> [..., out]: x weight^T + bias, one product with the bias fused.
// Dtypes are promoted. relu and gelu_tanh are part of the product on a GPU, where 16-bit results are then rounded once.
// Errors: ShapeError, DTypeError.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const LinearOptions& options = {},
              Loc loc = Loc::current());

struct FeedForwardOptions {
  Activation activation = Activation::relu;  // of what is between
};

// linear(linear(x, weight1, bias1, {.activation = ...}), weight2, bias2): x [..., in], weight1 [hidden, in], weight2
// [out, hidden] -> [..., out]. On a GPU, the gradient passes through relu or gelu_tanh inside a product too.
Tensor feed_forward(const Tensor& x, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
                    const Tensor& bias2, const FeedForwardOptions& options = {}, Loc loc = Loc::current());

}  // namespace flame
