// Two-dimensional convolution (cross-correlation, as in all of deep learning).
#pragma once
#include "flame/ops/pair.h"
#include "flame/tensor/tensor.h"

namespace flame {

struct Conv2dOptions {
  Pair stride = 1, padding = 0, dilation = 1;
  int64_t groups = 1;
};

// x [N, C, H, W], weight [O, C / groups, R, S], bias [O] or left out -> [N, O, H', W'] with
// H' = (H + 2 padding - dilation (R - 1) - 1) / stride + 1, rounded down. Floating dtypes, promoted. The result is
// channels-last. Errors: ShapeError, DTypeError, ValueError (options out of range).
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Conv2dOptions& options = {},
              Loc loc = Loc::current());

}  // namespace flame
