// Diagonals and triangles of matrices, which may stand in any two axes of a larger tensor.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

struct DiagonalOptions {
  int64_t offset = 0;            // above the main diagonal if positive, below it if negative
  int64_t axis1 = 0, axis2 = 1;  // rows and columns
};
// The elements x[..., i, i + offset, ...] as a new last axis; axis1 and axis2 go. A view. IndexError if both are one.
Tensor diagonal(const Tensor& x, const DiagonalOptions& o = {}, Loc loc = Loc::current());
// Zeros of `shape`, with `piece` on a diagonal: the gradient of diagonal.
Tensor diagonal_scatter(const Tensor& piece, const Shape& shape, const DiagonalOptions& o = {},
                        Loc loc = Loc::current());

// Zeros above (tril) or below (triu) the diagonal of the matrices in the last two axes; ShapeError below rank 2.
Tensor tril(const Tensor& x, int64_t diagonal = 0, Loc loc = Loc::current());
Tensor triu(const Tensor& x, int64_t diagonal = 0, Loc loc = Loc::current());

}  // namespace flame
