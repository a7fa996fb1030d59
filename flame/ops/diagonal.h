// Diagonals: read as views, and put into zeros.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

struct DiagonalOptions {
  int64_t offset = 0;  // above the main diagonal, below it if negative
  int64_t axis1 = 0, axis2 = 1;
};
// The elements x[..., i, ..., i + offset, ...] of axis1 and axis2, which give way to one last axis. A view; empty where
// the offset leaves x. Errors: IndexError, ShapeError for a rank below 2, ValueError for one axis twice.
Tensor diagonal(const Tensor& x, const DiagonalOptions& options = {}, Loc loc = Loc::current());
// The opposite: zeros with x's last axis on a diagonal of two new axes, by default the last ones.
struct DiagEmbedOptions {
  int64_t offset = 0;
  int64_t axis1 = -2, axis2 = -1;  // of the result
};
Tensor diag_embed(const Tensor& x, const DiagEmbedOptions& options = {}, Loc loc = Loc::current());
// A vector becomes a matrix with it on the diagonal, a matrix gives its diagonal. ShapeError for other ranks.
Tensor diag(const Tensor& x, int64_t offset = 0, Loc loc = Loc::current());
// The sum of a matrix's diagonal; integers are summed in int64.
Tensor trace(const Tensor& x, Loc loc = Loc::current());

}  // namespace flame
