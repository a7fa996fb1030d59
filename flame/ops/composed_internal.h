// Internal: what composed ops check under their own name before they call others, and how losses are reduced.
#pragma once
#include "flame/ops/check_internal.h"
#include "flame/ops/loss.h"

namespace flame {

// The shape that defined inputs on one device broadcast to. ShapeError if they do not fit.
inline Shape common_shape(const char* op, std::initializer_list<const Tensor*> in, Loc loc) {
  check_inputs(op, in, loc);
  Shape shape = (*in.begin())->shape();
  for (const Tensor* t : in) {
    Shape joined;
    if (!broadcast_shapes(shape, t->shape(), joined))
      fail<ShapeError>(loc, "{}: shapes {} and {} do not broadcast", op, shape, t->shape());
    shape = joined;
  }
  return shape;
}
// A factor of each element, or an undefined tensor.
inline void check_factor(const char* op, const char* what, const Tensor& factor, const Shape& shape, Loc loc) {
  Shape joined;
  if (factor.defined() && !(broadcast_shapes(shape, factor.shape(), joined) && joined == shape))
    fail<ShapeError>(loc, "{}: expected a {} that broadcasts to {}, got {}", op, what, shape, factor.shape());
}

inline void check_floating(const char* op, const Tensor& x, Loc loc) {
  check_defined(op, x, loc);
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", op, x.dtype());
}

inline void check_reduction(const char* op, Reduction r, Loc loc) {
  if (r == Reduction::batch_mean) fail<ValueError>(loc, "{}: expected none, mean or sum; batch_mean is kl_div's", op);
}
Tensor reduced(const Tensor& x, Reduction r, Loc loc);

}  // namespace flame
