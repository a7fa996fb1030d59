// Pooling over one to three axes: windows of a fixed size, or as many as the result has places (adaptive).
#pragma once
#include "flame/ops/per_axis.h"
#include "flame/tensor/tensor.h"

namespace flame {

template <int axes>
struct MaxPoolOptions {
  PerAxis<axes> kernel;
  PerAxis<axes> stride = 0;  // 0: the kernel's
  PerAxis<axes> padding = 0, dilation = 1;
  bool ceil_mode = false;  // a last window that hangs over the edge counts
};
using MaxPool1dOptions = MaxPoolOptions<1>;
using MaxPool2dOptions = MaxPoolOptions<2>;
using MaxPool3dOptions = MaxPoolOptions<3>;

template <int axes>
struct AvgPoolOptions {
  PerAxis<axes> kernel;
  PerAxis<axes> stride = 0;  // 0: the kernel's
  PerAxis<axes> padding = 0;
  bool ceil_mode = false;
  bool count_include_pad = true;  // padding is part of the divisor
  int64_t divisor_override = 0;   // 0: the number of elements
};
using AvgPool1dOptions = AvgPoolOptions<1>;
using AvgPool2dOptions = AvgPoolOptions<2>;
using AvgPool3dOptions = AvgPoolOptions<3>;

// x [N, C, H, W] or [C, H, W] -> [N, C, H', W'] or [C, H', W'], floating, in x's memory order; with one or three axes
// likewise. Padding (at most half the window) never wins and adds nothing. The maximum of a window with a NaN is NaN; of
// equal values the first gets the gradient. Planes, windows and padded axes of 2^31 places or more are ShapeErrors; other
// errors: ShapeError, DTypeError, ValueError (options out of range).
Tensor max_pool1d(const Tensor& x, const MaxPool1dOptions& options, Loc loc = Loc::current());
Tensor max_pool2d(const Tensor& x, const MaxPool2dOptions& options, Loc loc = Loc::current());
Tensor max_pool3d(const Tensor& x, const MaxPool3dOptions& options, Loc loc = Loc::current());
Tensor avg_pool1d(const Tensor& x, const AvgPool1dOptions& options, Loc loc = Loc::current());
Tensor avg_pool2d(const Tensor& x, const AvgPool2dOptions& options, Loc loc = Loc::current());
Tensor avg_pool3d(const Tensor& x, const AvgPool3dOptions& options, Loc loc = Loc::current());

// Output sizes; keep_size leaves an axis as it is. Window o of an axis of n covers [floor(o n / out), ceil((o + 1) n / out)).
inline constexpr int64_t keep_size = -1;
Tensor adaptive_max_pool1d(const Tensor& x, const PerAxis<1>& output_size, Loc loc = Loc::current());
Tensor adaptive_max_pool2d(const Tensor& x, const PerAxis<2>& output_size, Loc loc = Loc::current());
Tensor adaptive_max_pool3d(const Tensor& x, const PerAxis<3>& output_size, Loc loc = Loc::current());
Tensor adaptive_avg_pool1d(const Tensor& x, const PerAxis<1>& output_size, Loc loc = Loc::current());
Tensor adaptive_avg_pool2d(const Tensor& x, const PerAxis<2>& output_size, Loc loc = Loc::current());
Tensor adaptive_avg_pool3d(const Tensor& x, const PerAxis<3>& output_size, Loc loc = Loc::current());

// Also where the maxima are: places h * W + w in x's plane, int64, of the values' shape.
struct MaxPooled {
  Tensor values, indices;
};
MaxPooled max_pool1d_with_indices(const Tensor& x, const MaxPool1dOptions& options, Loc loc = Loc::current());
MaxPooled max_pool2d_with_indices(const Tensor& x, const MaxPool2dOptions& options, Loc loc = Loc::current());
MaxPooled max_pool3d_with_indices(const Tensor& x, const MaxPool3dOptions& options, Loc loc = Loc::current());
MaxPooled adaptive_max_pool1d_with_indices(const Tensor& x, const PerAxis<1>& output_size, Loc loc = Loc::current());
MaxPooled adaptive_max_pool2d_with_indices(const Tensor& x, const PerAxis<2>& output_size, Loc loc = Loc::current());
MaxPooled adaptive_max_pool3d_with_indices(const Tensor& x, const PerAxis<3>& output_size, Loc loc = Loc::current());

}  // namespace flame
