// Scans: every element is replaced by what its axis adds up to until there. Own kernels, parallel over rows and columns;
// bits do not depend on the number of threads. Gradients are scans in the other direction, exact at zeros too.
#pragma once
#include "flame/ops/reduce.h"

namespace flame {

// x_0 + ... + x_i along `axis`. Bool and integers are summed in int64 and wrap, float32 in float64, 16-bit floats in
// float32; rounded once an element. A 0-d tensor has one axis, here and below. IndexError: axis out of range.
Tensor cumsum(const Tensor& x, int64_t axis, Loc loc = Loc::current());
// x_0 ... x_i. The gradient divides by nothing, so zeros are no exception.
Tensor cumprod(const Tensor& x, int64_t axis, Loc loc = Loc::current());
// ln(e^x_0 + ... + e^x_i), safe for large x. DTypeError unless floating.
Tensor logcumsumexp(const Tensor& x, int64_t axis, Loc loc = Loc::current());
// The largest and smallest element until there, and its int64 place: the last of equal ones, the last NaN.
ValuesAndIndices cummax(const Tensor& x, int64_t axis, Loc loc = Loc::current());
ValuesAndIndices cummin(const Tensor& x, int64_t axis, Loc loc = Loc::current());

}  // namespace flame
