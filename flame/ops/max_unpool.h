// The way back of max pooling: what a maximum was goes to where it came from.
#pragma once
#include <optional>

#include "flame/ops/per_axis.h"
#include "flame/tensor/tensor.h"

namespace flame {

template <int axes>
struct MaxUnpoolOptions {
  PerAxis<axes> kernel;
  PerAxis<axes> stride = 0;  // 0: the kernel's
  PerAxis<axes> padding = 0;
  std::optional<PerAxis<axes>> output_size =
      {};  // (size - 1) stride - 2 padding + kernel, or less than a stride from it
};
using MaxUnpool1dOptions = MaxUnpoolOptions<1>;
using MaxUnpool2dOptions = MaxUnpoolOptions<2>;
using MaxUnpool3dOptions = MaxUnpoolOptions<3>;

// x and indices [N, C, H, W] or [C, H, W], as max_pool2d_with_indices gives them -> [N, C, H', W'] or [C, H', W'] with x at
// the indices and 0 elsewhere; with one or three axes likewise. Any dtype; of equal indices the last one stays and has the gradient.
// Errors: ShapeError, DTypeError (indices), IndexError, ValueError (options).
Tensor max_unpool1d(const Tensor& x, const Tensor& indices, const MaxUnpool1dOptions& o, Loc loc = Loc::current());
Tensor max_unpool2d(const Tensor& x, const Tensor& indices, const MaxUnpool2dOptions& o, Loc loc = Loc::current());
Tensor max_unpool3d(const Tensor& x, const Tensor& indices, const MaxUnpool3dOptions& o, Loc loc = Loc::current());

}  // namespace flame
