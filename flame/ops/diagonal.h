// Diagonals and triangles of matrices, which may stand in any two axes of a larger tensor.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

struct DiagonalOptions {
  int64_t offset = 0;            // above the main diagonal if positive, below it if negative
  int64_t axis1 = 0, axis2 = 1;  // rows and columns
};
// The elements x[..., i, i + offset, ...] as a new last axis; axis1 and axis2 go. A view. Errors: IndexError,
// ShapeError for a rank below 2, ValueError for one axis twice.
Tensor diagonal(const Tensor& x, const DiagonalOptions& o = {}, Loc loc = Loc::current());
// Zeros of `shape`, with `piece` on a diagonal: the gradient of diagonal.
Tensor diagonal_scatter(const Tensor& piece, const Shape& shape, const DiagonalOptions& o = {},
                        Loc loc = Loc::current());

// The opposite of diagonal: zeros with x's last axis on a diagonal of two new axes, by default the last ones.
struct DiagEmbedOptions {
  int64_t offset = 0;
  int64_t axis1 = -2, axis2 = -1;  // of the result
};
Tensor diag_embed(const Tensor& x, const DiagEmbedOptions& o = {}, Loc loc = Loc::current());
// A vector becomes a matrix with it on the diagonal, a matrix gives its diagonal. ShapeError for other ranks.
Tensor diag(const Tensor& x, int64_t offset = 0, Loc loc = Loc::current());
// The sum of a matrix's diagonal; integers are summed in int64.
Tensor trace(const Tensor& x, Loc loc = Loc::current());

// Zeros above (tril) or below (triu) the diagonal of the matrices in the last two axes; ShapeError below rank 2.
Tensor tril(const Tensor& x, int64_t diagonal = 0, Loc loc = Loc::current());
Tensor triu(const Tensor& x, int64_t diagonal = 0, Loc loc = Loc::current());

}  // namespace flame
