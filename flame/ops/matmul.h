// Matrix products over all ranks, as torch.matmul.
#pragma once
#include <string_view>

#include "flame/tensor/tensor.h"

namespace flame {

// Two matrices: [m, k] x [k, n] -> [m, n]. Axes before the last two are batches and broadcast. A 1-d tensor is a row on
// the left and a column on the right, and its axis is dropped from the result; two of them give their dot product, 0-d.
// Dtypes are promoted; float16 and bfloat16 are summed in float32 and rounded once; integers wrap. No transposed or
// strided input is copied. Errors: ShapeError, DTypeError (bool).
Tensor matmul(const Tensor& a, const Tensor& b, Loc loc = Loc::current());

// How float32 products (matmul, linear, convolutions and what is made of them) are computed on a GPU, as
// torch.set_float32_matmul_precision: "highest" (the default) in float32; "high" may round operands to TF32's 10 bits of
// mantissa, for tensor cores. Other devices and dtypes are not touched. ValueError for any other word.
void set_matmul_precision(std::string_view precision, Loc loc = Loc::current());
std::string_view matmul_precision();

}  // namespace flame
