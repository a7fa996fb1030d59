// Internal: what a reduction's axes come down to; shared with argmax and argmin.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

struct ReducedAxes {
  uint32_t mask = 0;  // bit i: axis i is reduced
  Shape kept;         // reduced axes with size 1
  Shape out;          // as asked by keepdim
  int64_t count = 1;  // elements reduced into one
};
ReducedAxes reduced_axes(const char* op, const Tensor& x, const Axes& axes, bool keepdim, Loc loc);

}  // namespace flame
