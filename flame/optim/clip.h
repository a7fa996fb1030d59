// Gradient clipping over all parameters at once, without a host read. Parameters without a gradient are skipped.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame::optim {

// Scales all gradients by min(1, max_norm / (norm + 1e-6)), where norm is the 2-norm of all their elements, and returns
// the norm before (0-d; float32, or float64 if a gradient is; zero without gradients). A NaN makes every gradient NaN.
Tensor clip_grad_norm(const std::vector<Parameter>& parameters, double max_norm, Loc loc = Loc::current());

// Limits each element to [-max_value, max_value]; NaN stays.
void clip_grad_value(const std::vector<Parameter>& parameters, double max_value, Loc loc = Loc::current());

}  // namespace flame::optim
