// Reading and adding by index. Indices are int64 or int32 and must lie in [0, size): on the CPU others throw IndexError
// that names the value. Repeated indices add up in the order in which they come, so results are deterministic.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// out[i][j][k] = x[i][index[i][j][k]][k] for axis 1. index: x's rank; its other sizes at most x's.
Tensor gather(const Tensor& x, int64_t axis, const Tensor& index, Loc loc = Loc::current());
// out = x, then out[i][index[i][j][k]][k] += src[i][j][k] for axis 1.
Tensor scatter_add(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src, Loc loc = Loc::current());
// The slices x[..., index[0], ...], x[..., index[1], ...], ... along `axis`; index: rank 1.
Tensor index_select(const Tensor& x, int64_t axis, const Tensor& index, Loc loc = Loc::current());
// Rows of weight [V, D] by index of any shape: [...] -> [..., D].
Tensor embedding(const Tensor& weight, const Tensor& index, Loc loc = Loc::current());

}  // namespace flame
