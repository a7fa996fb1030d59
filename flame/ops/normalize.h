// Division by a norm along an axis, and by the energy of neighbouring channels.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

struct NormalizeOptions {
  double p = 2;  // of the norm (sum |x|^p)^(1/p); Inf: the largest |x|
  int64_t axis = 1;
  double eps = 1e-12;  // the least divisor
};
// x / max(norm(x, p), eps) along the axis (PyTorch's F.normalize). Floating dtypes. Errors: DTypeError, IndexError.
Tensor normalize(const Tensor& x, const NormalizeOptions& o = {}, Loc loc = Loc::current());

struct LocalResponseNormOptions {
  int64_t size;  // channels of a window
  double alpha = 1e-4, beta = 0.75, k = 1;
};
// x [N, C, ...] / (k + alpha / size * sum of x^2 over size channels around each)^beta (Krizhevsky et al. 2012); channels
// beyond the edge count as 0. Errors: ShapeError, DTypeError, ValueError (size).
Tensor local_response_norm(const Tensor& x, const LocalResponseNormOptions& o, Loc loc = Loc::current());

}  // namespace flame
