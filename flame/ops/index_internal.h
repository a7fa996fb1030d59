// Internal: reading and writing a tensor's first axes by index tensors of one shape, all axes together.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

struct IndexList {
  const char* op;             // named by errors
  std::vector<Tensor> index;  // int64, all of one shape `at`, one for each of the first axes
  Dims axes;                  // what errors call them
  bool wraps = true;          // negative numbers count from the end
  bool distinct = false;      // no place comes twice
  const Shape& at() const { return index[0].shape(); }
  int count() const { return static_cast<int>(index.size()); }
};

// [n_1, .., n_k, rest..] -> [at.., rest..]
Tensor index_get(const IndexList& list, const Tensor& x, Loc loc);

enum class PutMode : uint8_t { assign, add };
// x with `value` [at.., rest..], of x's dtype, put there or added. Repeated places come in row-major order: the last
// one stays and gets the gradient, or all add up.
Tensor index_put(const IndexList& list, PutMode mode, const Tensor& x, const Tensor& value, Loc loc);

}  // namespace flame
