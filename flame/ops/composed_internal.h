// Internal: what composed ops check under their own name before they call others.
#pragma once
#include <initializer_list>

#include "flame/core/format.h"
#include "flame/ops/loss.h"

namespace flame {

inline void check_devices(const char* op, std::initializer_list<const Tensor*> in, Loc loc) {
  for (const Tensor* t : in)
    if (&t->device() != &(*in.begin())->device())
      fail<DeviceError>(loc, "{}: expected all tensors on one device, got {} and {}", op,
                        (*in.begin())->device().name(), t->device().name());
}
// The shape that the inputs, which are on one device, broadcast to. ShapeError if they do not fit.
inline Shape common_shape(const char* op, std::initializer_list<const Tensor*> in, Loc loc) {
  check_devices(op, in, loc);
  Shape shape = (*in.begin())->shape();
  for (const Tensor* t : in) {
    Shape joined;
    if (!broadcast_shapes(shape, t->shape(), joined))
      fail<ShapeError>(loc, "{}: shapes {} and {} do not broadcast", op, shape, t->shape());
    shape = joined;
  }
  return shape;
}

inline void check_floating(const char* op, const Tensor& x, Loc loc) {
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", op, x.dtype());
}

inline void check_reduction(const char* op, Reduction r, Loc loc) {
  if (r == Reduction::batch_mean) fail<ValueError>(loc, "{}: expected none, mean or sum; batch_mean is kl_div's", op);
}
Tensor reduced(const Tensor& x, Reduction r, Loc loc);

}  // namespace flame
