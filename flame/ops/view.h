// Views beyond Tensor's own methods. A view costs no kernel: it reads the same storage at other strides, and its
// gradient is the opposite view.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// Reversed along `axes` (a view with negative strides).
Tensor flip(const Tensor& x, const Dims& axes, Loc loc = Loc::current());
// Axis `from` moved to position `to`, or each of several, the others in their order.
Tensor movedim(const Tensor& x, int64_t from, int64_t to, Loc loc = Loc::current());
Tensor movedim(const Tensor& x, const Dims& from, const Dims& to, Loc loc = Loc::current());
// `axis` split into several of the given sizes, one of which may be -1.
Tensor unflatten(const Tensor& x, int64_t axis, const Shape& sizes, Loc loc = Loc::current());

// The gradient of slice: zeros of `shape`, with `piece` at start, start + step, ... along `axis`. Step may be negative.
Tensor slice_scatter(const Tensor& piece, const Shape& shape, int64_t axis, int64_t start, int64_t step,
                     Loc loc = Loc::current());

}  // namespace flame
