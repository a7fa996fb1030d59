// Gradient clipping over all parameters at once, without a host read. Parameters without a gradient are skipped.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame::optim {

struct ClipNormOptions {
  double norm_type = 2;             // above 0; infinity: the largest magnitude
  bool error_if_nonfinite = false;  // ValueError if the norm is NaN or infinite; reads it on the host
};
// Scales all gradients by min(1, max_norm / (norm + 1e-6)), where norm is the p-norm of all their elements, and returns
// the norm before (0-d; float32, or float64 if a gradient is; zero without gradients). A NaN makes every gradient NaN.
Tensor clip_grad_norm(const std::vector<Parameter>& parameters, double max_norm, const ClipNormOptions& o = {},
                      Loc loc = Loc::current());

// Limits each element to [-max_value, max_value]; NaN stays.
void clip_grad_value(const std::vector<Parameter>& parameters, double max_value, Loc loc = Loc::current());

struct ClipAdaptiveOptions {
  double clip_factor = 0.01;
  double eps = 1e-3;  // the least norm of a unit that counts: units may start at zero
};
// Adaptive clipping (Brock et al. 2021): the gradient g of a unit w whose norm exceeds clip_factor * max(|w|, eps) is
// scaled down to it. A unit is a row along the first axis (an output of a linear or convolution layer), or the whole
// parameter if it has one axis or none; the paper leaves the last layer out.
void clip_grad_adaptive(const std::vector<Parameter>& parameters, const ClipAdaptiveOptions& o = {},
                        Loc loc = Loc::current());

}  // namespace flame::optim
