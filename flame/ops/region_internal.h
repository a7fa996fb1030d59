// Internal: a part of a tensor that integers and slices name, read as a view and written as a copy.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// Of axis i the elements start[i], start[i] + step[i], ..., count[i] of them; within the axis.
struct Region {
  Dims start, count, step;
  bool whole(const Shape& shape) const;
};
Tensor region_view(const char* op, const Tensor& x, const Region& r, Loc loc);  // shape: r.count
// x with `value`, of shape r.count and x's dtype, in the region.
Tensor region_put(const char* op, const Tensor& x, const Region& r, const Tensor& value, Loc loc);

}  // namespace flame
