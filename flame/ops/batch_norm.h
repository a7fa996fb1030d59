// Batch normalisation (Ioffe and Szegedy 2015) over [N, C, ...], with the gradient in closed form.
#pragma once
#include <optional>

#include "flame/tensor/tensor.h"

namespace flame {

struct BatchNormOptions {
  bool training = true;  // normalise by the batch and update the running statistics; else normalise by those
  std::optional<double> momentum = 0.1;  // running = (1 - momentum) * running + momentum * batch; none: 1 / batches
  double eps = 1e-5;
  State batches = {};  // int64, 0-d, or undefined: counts the batches trained on
};
// x: [N, C, ...]; weight, bias: [C] or left out; running statistics: [C], or undefined states (then training must be on).
// The batch's biased variance normalises, its unbiased one enters the running variance. Training on one element a channel
// throws ValueError, as does no momentum without `batches`: it makes the running statistics the average over all batches.
// float16 and bfloat16 are computed in float32; the result has x's dtype.
Tensor batch_norm(const Tensor& x, const State& running_mean, const State& running_var, const Tensor& weight = {},
                  const Tensor& bias = {}, const BatchNormOptions& o = {}, Loc loc = Loc::current());

}  // namespace flame
