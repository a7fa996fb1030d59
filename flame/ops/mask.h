// Selecting by truth. What the shape of depends on values is counted on the host: inside a recorded step it throws
// RecordError.
#pragma once
#include "flame/ops/pointwise.h"

namespace flame {

// The places of elements other than zero, row-major: int64 [count, rank].
Tensor nonzero(const Tensor& x, Loc loc = Loc::current());
// The elements of x where `mask` (bool) is true, row-major: [count]. Both broadcast.
Tensor masked_select(const Tensor& x, const Tensor& mask, Loc loc = Loc::current());
// x with `value`, a number or a tensor of rank 0, where `mask` (bool) is true. Both broadcast; x's dtype stays.
Tensor masked_fill(const Tensor& x, const Tensor& mask, const Arg& value, Loc loc = Loc::current());

}  // namespace flame
