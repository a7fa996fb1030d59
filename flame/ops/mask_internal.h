// Internal: the places of a mask, for the ops that index by it, and numbers to be written into tensors.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// nonzero(x), whose errors name `op`.
Tensor places_of(const char* op, const Tensor& x, Loc loc);
// The elements of x where `mask`, of x's shape, is true: row-major.
Tensor select_true(const char* op, const Tensor& x, const Tensor& mask, Loc loc);
// A number as one of dtype t, so that it promotes nothing.
Scalar as_dtype(const Scalar& v, DType t);

}  // namespace flame
