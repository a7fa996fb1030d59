// Internal: the element loops of clipping; see update_simd.cpp.
#pragma once
#include <cstdint>

#include "flame/core/dtype.h"

namespace flame::optim {

using SquaresFn = double (*)(const void* x, int64_t n);  // the sum of squares, in an order that depends on n alone
using ScaleFn = void (*)(const void* x, double number, void* out, int64_t n);
SquaresFn squares_kernel(DType compute);  // float32 or float64
ScaleFn scale_kernel(DType compute);      // out = x * number
ScaleFn clamp_kernel(DType compute);      // out = x within +-number; NaN stays

}  // namespace flame::optim
