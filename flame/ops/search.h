// Places in sorted rows, by bisection.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

struct SearchOptions {
  bool right = false;  // after equal elements rather than before them
};
// sorted [..., n], ascending; values [..., m] with the same leading sizes, or any shape if sorted is 1-d. For each value
// the int64 place in its row that keeps the order. No gradient. Errors: ShapeError; dtypes are promoted.
Tensor searchsorted(const Tensor& sorted, const Tensor& values, const SearchOptions& options = {},
                    Loc loc = Loc::current());
// searchsorted in 1-d boundaries, arguments the other way round.
Tensor bucketize(const Tensor& x, const Tensor& boundaries, const SearchOptions& options = {},
                 Loc loc = Loc::current());

}  // namespace flame
