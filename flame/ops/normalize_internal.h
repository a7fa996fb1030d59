// Internal: the normalisation that layer norm and batch norm share.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// weight and bias broadcast against x, or are undefined.
struct Normalized {
  Tensor y;          // (x - mean) / sqrt(var + eps) * weight + bias, in x's dtype
  Tensor mean, var;  // over the axes, which stay with size 1; biased; float32 or float64; without gradient
};
Normalized normalize(const char* name, const Tensor& x, const Dims& axes, const Tensor& weight, const Tensor& bias,
                     double eps, Loc loc);

inline DType compute_dtype_of(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

}  // namespace flame
