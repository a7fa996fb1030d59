// Dropout (Srivastava et al. 2014), inverted: kept elements are scaled at training time, evaluation is the identity.
#pragma once
#include "flame/ops/random.h"

namespace flame {

// y = x / (1 - p) where kept, 0 elsewhere (also where x is Inf or NaN); a fresh mask each call. `x` itself if not training or
// p is 0. ValueError if p is outside [0, 1]; DTypeError unless floating. No mask is kept: backward draws the same numbers again.
Tensor dropout(const Tensor& x, double p = 0.5, bool training = true, Generator* generator = nullptr,
               Loc loc = Loc::current());

}  // namespace flame
