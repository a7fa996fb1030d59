// Group normalisation (Wu and He 2018) and instance normalisation (Ulyanov et al. 2016), gradients in closed form.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// x [N, C, ...]: (x - mean) / sqrt(var + eps) over each sample's C / groups channels and all positions, then weight and
// bias, [C] or left out. Biased variance. float16 and bfloat16 are computed in float32; the result has x's dtype.
// Errors: ShapeError, DTypeError, ValueError (groups must divide C; more than one value a group).
Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight = {}, const Tensor& bias = {},
                  double eps = 1e-5, Loc loc = Loc::current());

struct InstanceNormOptions {
  bool use_input_stats = true;  // normalise by each sample's channel and update the running statistics; else by those
  double momentum = 0.1;        // running = (1 - momentum) * running + momentum * mean over the samples
  double eps = 1e-5;
};
// x [N, C, ...], normalised over the positions of each sample and channel. Running statistics: [C] or undefined states.
// The variance that enters the running one is unbiased. Errors: as batch_norm.
Tensor instance_norm(const Tensor& x, const State& running_mean = {}, const State& running_var = {},
                     const Tensor& weight = {}, const Tensor& bias = {}, const InstanceNormOptions& o = {},
                     Loc loc = Loc::current());

}  // namespace flame
