// The named products of vectors, matrices and batches: matmul where ranks are fixed and checked. Dtypes are promoted.
// Errors: ShapeError for ranks and sizes, DTypeError where bool is no number.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// [n], [n] -> 0-d. vdot is the same for real numbers.
Tensor dot(const Tensor& a, const Tensor& b, Loc loc = Loc::current());
Tensor vdot(const Tensor& a, const Tensor& b, Loc loc = Loc::current());
// [..., k], [..., k] -> a's other axes, then b's: the sum over the last axes. A 0-d tensor multiplies.
Tensor inner(const Tensor& a, const Tensor& b, Loc loc = Loc::current());
// [m], [n] -> [m, n]: a_i b_j.
Tensor outer(const Tensor& a, const Tensor& b, Loc loc = Loc::current());
// [m, k], [k] -> [m].
Tensor mv(const Tensor& a, const Tensor& x, Loc loc = Loc::current());
// [m, k], [k, n] -> [m, n], without broadcasting.
Tensor mm(const Tensor& a, const Tensor& b, Loc loc = Loc::current());
// [b, m, k], [b, k, n] -> [b, m, n], without broadcasting.
Tensor bmm(const Tensor& a, const Tensor& b, Loc loc = Loc::current());

struct AddProductOptions {
  Scalar beta = 1;   // of the input; 0 ignores it, NaN and all
  Scalar alpha = 1;  // of the product
};
// beta input + alpha (a @ b) for matrices; the input broadcasts to [m, n].
Tensor addmm(const Tensor& input, const Tensor& a, const Tensor& b, const AddProductOptions& options = {},
             Loc loc = Loc::current());
// The same for a matrix and a vector, [m].
Tensor addmv(const Tensor& input, const Tensor& a, const Tensor& x, const AddProductOptions& options = {},
             Loc loc = Loc::current());
// The same for the outer product of two vectors, [m, n].
Tensor addr(const Tensor& input, const Tensor& a, const Tensor& b, const AddProductOptions& options = {},
            Loc loc = Loc::current());
// The same for batches, [b, m, n].
Tensor baddbmm(const Tensor& input, const Tensor& a, const Tensor& b, const AddProductOptions& options = {},
               Loc loc = Loc::current());
// beta input + alpha sum over the batch of a @ b, [m, n].
Tensor addbmm(const Tensor& input, const Tensor& a, const Tensor& b, const AddProductOptions& options = {},
              Loc loc = Loc::current());

// The Kronecker product: blocks a_ij b. Ranks are aligned from the right; at most 4 axes.
Tensor kron(const Tensor& a, const Tensor& b, Loc loc = Loc::current());
// The vector product of three components along `axis`; other axes broadcast.
Tensor cross(const Tensor& a, const Tensor& b, int64_t axis = -1, Loc loc = Loc::current());

}  // namespace flame
