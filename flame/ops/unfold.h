// Windows of pictures as columns of a matrix (im2col), and the sum of columns back into pictures (col2im).
#pragma once
#include "flame/ops/per_axis.h"
#include "flame/tensor/tensor.h"

namespace flame {

struct UnfoldOptions {
  Pair kernel;
  Pair dilation = 1, padding = 0, stride = 1;
};

// x [N, C, H, W] or [C, H, W] -> [N, C R S, L] or [C R S, L]: a column a window, L windows, row-major. Floating dtypes.
// Errors: ShapeError, DTypeError, ValueError (options out of range).
Tensor unfold(const Tensor& x, const UnfoldOptions& options, Loc loc = Loc::current());
// The transpose of unfold: [N, C R S, L] or [C R S, L] -> pictures of output_size, where windows that meet add up.
Tensor fold(const Tensor& x, const Pair& output_size, const UnfoldOptions& options, Loc loc = Loc::current());

}  // namespace flame
