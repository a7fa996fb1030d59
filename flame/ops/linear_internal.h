// Internal: the gradients of a small linear layer in one launch, on devices that compile text.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

struct LinearGradients {
  Tensor x, weight, bias;  // undefined where they are not wanted
};

// Whether one launch does it: dense float32 on a GPU, TF32 allowed, and few multiplications.
bool one_launch_fits(const Tensor& g, const Meta& x, const Meta& weight);
// Of g [..., out], x [..., in] and weight [out, in], which is given if the gradient to x is wanted; g first passed through
// relu's slope at y [..., out] if y is given.
LinearGradients one_launch_gradients(const Tensor& g, const Tensor& x, const Tensor& weight, const Tensor& y,
                                     bool for_bias, Loc loc);

}  // namespace flame
