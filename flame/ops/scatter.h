// Writing by index along one axis: each function gives x with something at the indices. Indices as in gather.h. Repeated
// ones come in row-major order: sums are deterministic, and of assignments the last one stays and gets the gradient.
#pragma once
#include "flame/ops/pointwise.h"

namespace flame {

// out = x, then out[i][index[i][j][k]][k] = src[i][j][k] for axis 1. src: a number, or a tensor of x's dtype that is at
// least as large as index, of which the first elements are read. index: x's rank, its other sizes at most x's.
Tensor scatter(const Tensor& x, int64_t axis, const Tensor& index, const Arg& src, Loc loc = Loc::current());
// As scatter, but adds.
Tensor scatter_add(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src, Loc loc = Loc::current());

enum class ScatterReduce : uint8_t { sum, prod, mean, amax, amin };
struct ScatterReduceOptions {
  bool include_self = true;  // x's element is one of those reduced; else it is replaced
};
// As scatter, but combines. The gradient of amax and amin is split evenly among equal elements; derivatives of a product are
// exact up to the second, zeros included. mean: floating dtypes.
Tensor scatter_reduce(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src, ScatterReduce reduce,
                      const ScatterReduceOptions& o = {}, Loc loc = Loc::current());

struct IndexAddOptions {
  Scalar alpha = 1;  // src counts that often
};
// x with the slices of `src` added to, or put in place of, the slices index[0], index[1], ... of `axis`. index: rank 1 or
// 0; src: x's shape but for index.numel() along axis, and x's dtype.
Tensor index_add(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src, const IndexAddOptions& o = {},
                 Loc loc = Loc::current());
Tensor index_copy(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src, Loc loc = Loc::current());
// x with `value`, a number or a tensor of rank 0, in the slices index[0], index[1], ... of `axis`.
Tensor index_fill(const Tensor& x, int64_t axis, const Tensor& index, const Arg& value, Loc loc = Loc::current());

}  // namespace flame
