// Tensors made from numbers alone. Constants and ranges are pending values: an island computes them where they are read.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

Tensor full(const Shape& shape, Scalar value, DType dtype = DType::f32, Device& d = default_device(),
            Loc loc = Loc::current());
Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device& d = default_device(), Loc loc = Loc::current());
Tensor ones(const Shape& shape, DType dtype = DType::f32, Device& d = default_device(), Loc loc = Loc::current());
Tensor empty(const Shape& shape, DType dtype = DType::f32, Device& d = default_device(), Loc loc = Loc::current());

// The same shape, dtype and device as `x`; without its gradient.
Tensor full_like(const Tensor& x, Scalar value, Loc loc = Loc::current());
Tensor zeros_like(const Tensor& x, Loc loc = Loc::current());
Tensor ones_like(const Tensor& x, Loc loc = Loc::current());
Tensor empty_like(const Tensor& x, Loc loc = Loc::current());

// start, start + step, ... before `stop`: ceil((stop - start) / step) values. ValueError if step is 0 or points away.
// int64 when all three are integers, float32 otherwise; or the dtype given.
Tensor arange(Scalar stop, Loc loc = Loc::current());
Tensor arange(Scalar start, Scalar stop, Scalar step = 1, Loc loc = Loc::current());
Tensor arange(Scalar start, Scalar stop, Scalar step, DType dtype, Device& d = default_device(),
              Loc loc = Loc::current());
// `count` values from `start` to `stop`, both included exactly; computed in float64.
Tensor linspace(double start, double stop, int64_t count, DType dtype = DType::f32, Device& d = default_device(),
                Loc loc = Loc::current());
// Ones on the main diagonal of [rows, columns].
Tensor eye(int64_t rows, int64_t columns, DType dtype = DType::f32, Device& d = default_device(),
           Loc loc = Loc::current());
inline Tensor eye(int64_t n, DType dtype = DType::f32, Device& d = default_device(), Loc loc = Loc::current()) {
  return eye(n, n, dtype, d, loc);
}
// [...] integers -> [..., classes] of `dtype`: 1 where the class equals the integer. IndexError for integers beyond the
// classes. classes = -1: one more than the largest integer, which is read on the host.
Tensor one_hot(const Tensor& index, int64_t classes = -1, DType dtype = DType::i64, Loc loc = Loc::current());

}  // namespace flame
