// Copies of a tensor beside each other, and rotations.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// The tensor counts[i] times along axis i; counts may have more entries than x has axes, then new axes come first.
// ShapeError for fewer or negative counts.
Tensor repeat(const Tensor& x, const Dims& counts, Loc loc = Loc::current());
// As repeat, but fewer counts than axes are those of the last axes.
Tensor tile(const Tensor& x, const Dims& counts, Loc loc = Loc::current());

// Elements moved by shifts[i] along axes[i]; what leaves at the end comes in at the start. Without axes: one shift of the
// flattened tensor. ValueError if the counts differ.
Tensor roll(const Tensor& x, const Dims& shifts, const Dims& axes = {}, Loc loc = Loc::current());
inline Tensor roll(const Tensor& x, int64_t shift, int64_t axis, Loc loc = Loc::current()) {
  return roll(x, Dims{shift}, Dims{axis}, loc);
}

}  // namespace flame
