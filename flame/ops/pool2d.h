// Two-dimensional pooling.
#pragma once
#include "flame/ops/pair.h"
#include "flame/tensor/tensor.h"

namespace flame {

struct MaxPool2dOptions {
  Pair kernel;
  Pair stride = 0;  // 0: the kernel's
  Pair padding = 0, dilation = 1;
  bool ceil_mode = false;  // a last window that hangs over the edge counts
};
struct AvgPool2dOptions {
  Pair kernel;
  Pair stride = 0;  // 0: the kernel's
  Pair padding = 0;
  bool ceil_mode = false;
  bool count_include_pad = true;  // padding is part of the divisor
};

// x [N, C, H, W] -> [N, C, H', W'], floating, in x's memory order. Padding (at most half the window) never wins and adds
// nothing. The maximum of a window with a NaN is NaN; of equal values the first gets the gradient.
// Errors: ShapeError, DTypeError, ValueError (options out of range).
Tensor max_pool2d(const Tensor& x, const MaxPool2dOptions& options, Loc loc = Loc::current());
Tensor avg_pool2d(const Tensor& x, const AvgPool2dOptions& options, Loc loc = Loc::current());

}  // namespace flame
