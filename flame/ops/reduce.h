// Reductions over any set of axes; none written means all of them. With keepdim the reduced axes stay with size 1.
// Errors: IndexError for an axis out of range, ValueError for one named twice, DTypeError, ShapeError as said.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// Bool and integers are summed and multiplied in int64, 16-bit floats in float32, rounded once. Empty: 0 and 1.
Tensor sum(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());
Tensor prod(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());
// Floating dtypes only, as are var, std, norm and logsumexp. Empty: NaN.
Tensor mean(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());
// Largest and smallest; NaN wins; ties share the gradient evenly. ShapeError when nothing is reduced over.
Tensor amax(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());
Tensor amin(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());
// Both at once, from one reading of x.
struct MinMax {
  Tensor min, max;
};
MinMax aminmax(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());
// Of all elements: amax and amin.
inline Tensor max(const Tensor& x, Loc loc = Loc::current()) { return amax(x, {}, false, loc); }
inline Tensor min(const Tensor& x, Loc loc = Loc::current()) { return amin(x, {}, false, loc); }
// Elements and their int64 places along an axis; the gradient of `values` goes to these places alone.
struct ValuesAndIndices {
  Tensor values, indices;
};
// Along one axis, with the place as argmax and argmin say: the first of equal ones, and a NaN before any number.
ValuesAndIndices max(const Tensor& x, int64_t axis, bool keepdim = false, Loc loc = Loc::current());
ValuesAndIndices min(const Tensor& x, int64_t axis, bool keepdim = false, Loc loc = Loc::current());

struct VarOptions {
  double correction = 1;  // the divisor is n - correction; 0 for the population's variance
  bool keepdim = false;
};
// Two passes: the mean, then the squares about it.
Tensor var(const Tensor& x, const Axes& axes = {}, VarOptions options = {}, Loc loc = Loc::current());
Tensor std(const Tensor& x, const Axes& axes = {}, VarOptions options = {}, Loc loc = Loc::current());
// Variance and deviation beside the mean they are about; axes of size 1 stay in both or in neither.
struct VarMean {
  Tensor var, mean;
};
VarMean var_mean(const Tensor& x, const Axes& axes = {}, VarOptions options = {}, Loc loc = Loc::current());
struct StdMean {
  Tensor std, mean;
};
StdMean std_mean(const Tensor& x, const Axes& axes = {}, VarOptions options = {}, Loc loc = Loc::current());
// sqrt(sum of squares); the gradient at 0 is 0.
Tensor norm(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());
struct NormOptions {
  double p = 2;  // the order
  bool keepdim = false;
};
// (sum |x|^p)^(1/p); p = Inf and -Inf: the largest and smallest |x|, whose ties share the gradient; p = 0: how many are
// not 0. The gradient at 0 is 0 for every p. ShapeError for p < 0 or Inf when nothing is reduced over, ValueError for
// p = NaN.
Tensor norm(const Tensor& x, const Axes& axes, const NormOptions& options, Loc loc = Loc::current());
// ln(sum e^x), safe for large x; -Inf where all are -Inf.
Tensor logsumexp(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());

// Sum and mean of what is not NaN; a NaN gets no gradient. Where all are NaN: 0 and NaN. nansum takes every dtype.
Tensor nansum(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());
Tensor nanmean(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());
// int64: how many elements are not zero (a NaN is not). No gradient.
Tensor count_nonzero(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());

// Bool: is any, are all elements not zero? Empty: false and true.
Tensor any(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());
Tensor all(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());

// int64 place of the largest or smallest element along the axes, counted row-major through them; the first of equal
// ones, and a NaN before any number. ShapeError when nothing is reduced over.
Tensor argmax(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());
Tensor argmin(const Tensor& x, const Axes& axes = {}, bool keepdim = false, Loc loc = Loc::current());

// The sum of `g` over the axes along which `shape` was broadcast to g's shape: what a broadcast input's gradient is.
Tensor sum_to(const Tensor& g, const Shape& shape, Loc loc = Loc::current());

}  // namespace flame
