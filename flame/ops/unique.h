// The different elements of a tensor.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

struct Unique {
  Tensor values;   // [n], rising; a NaN is no other NaN, and all stand last
  Tensor inverse;  // x's shape, int64: which of the values an element is
  Tensor counts;   // [n], int64: how many elements are that value
};
// torch.unique with sorted, return_inverse and return_counts. Any dtype and shape; n is read on the host. No gradient.
Unique unique(const Tensor& x, Loc loc = Loc::current());

}  // namespace flame
