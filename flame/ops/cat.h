// Joining tensors along an axis, and taking them apart again.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// Joined along an existing axis. The other sizes must agree (ShapeError); dtypes are promoted; sizes of 0 are fine.
// Channels-last if all inputs are.
Tensor cat(const std::vector<Tensor>& tensors, int64_t axis = 0, Loc loc = Loc::current());
// Joined along a new axis; all shapes equal.
Tensor stack(const std::vector<Tensor>& tensors, int64_t axis = 0, Loc loc = Loc::current());
// Views of `size` along `axis` each; the last may be shorter.
std::vector<Tensor> split(const Tensor& x, int64_t size, int64_t axis = 0, Loc loc = Loc::current());
// Views of the given sizes, which must add up to the axis.
std::vector<Tensor> split(const Tensor& x, const Dims& sizes, int64_t axis = 0, Loc loc = Loc::current());
// At most `count` views, all of one size but the last (PyTorch's chunk).
std::vector<Tensor> chunk(const Tensor& x, int64_t count, int64_t axis = 0, Loc loc = Loc::current());

}  // namespace flame
