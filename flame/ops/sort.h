// Order along one axis: sorting, the k first, the k-th, the middle. NaN counts as larger than every number, and equal
// elements keep their order. Indices are int64; the gradient of values goes to the places they came from.
// Errors: IndexError for an axis or k out of range.
#pragma once
#include "flame/ops/reduce.h"

namespace flame {

struct SortOptions {
  int64_t axis = -1;
  bool descending = false;
  bool stable = false;  // equal elements keep their order in either case, as in PyTorch on the CPU
};
ValuesAndIndices sort(const Tensor& x, const SortOptions& options = {}, Loc loc = Loc::current());
// The indices alone. No gradient.
Tensor argsort(const Tensor& x, const SortOptions& options = {}, Loc loc = Loc::current());

struct TopkOptions {
  int64_t axis = -1;
  bool largest = true;
  bool sorted = true;  // false: in no particular order
};
// The k largest or smallest, the first of equal ones. k may be 0.
ValuesAndIndices topk(const Tensor& x, int64_t k, const TopkOptions& options = {}, Loc loc = Loc::current());
// The k-th smallest, counted from 1.
ValuesAndIndices kthvalue(const Tensor& x, int64_t k, int64_t axis = -1, bool keepdim = false,
                          Loc loc = Loc::current());
// The middle element, the lower one of two; NaN if there is one, at the first NaN.
ValuesAndIndices median(const Tensor& x, int64_t axis, bool keepdim = false, Loc loc = Loc::current());
// Of all elements; equal ones share the gradient. Nothing at all gives NaN; ShapeError for integers.
Tensor median(const Tensor& x, Loc loc = Loc::current());

}  // namespace flame
