// softmax and log_softmax over one axis: composed of island ops, with the gradient in closed form.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// exp(x - max) / sum(exp(x - max)) along `axis`; float16 and bfloat16 are computed in float32 and rounded once.
// A row of -inf alone gives NaN. DTypeError unless floating.
Tensor softmax(const Tensor& x, int64_t axis = -1, Loc loc = Loc::current());
// x - max - log(sum(exp(x - max))).
Tensor log_softmax(const Tensor& x, int64_t axis = -1, Loc loc = Loc::current());

}  // namespace flame
