// Elementwise functions that are composed of rows of fuse/pointwise.def: those of four inputs, with options, or a host
// answer. Inputs broadcast and are promoted as there; errors too.
#pragma once
#include <optional>

#include "flame/ops/pointwise.h"

namespace flame {

struct AddcOptions {
  double value = 1.0;
};
// input + value a b. Integers and float16 and bfloat16 are computed in float32, and rounded once, to the promoted
// floating dtype.
Tensor addcmul(const Tensor& input, const Tensor& a, const Tensor& b, const AddcOptions& options = {},
               Loc loc = Loc::current());
// input + value a / b.
Tensor addcdiv(const Tensor& input, const Tensor& a, const Tensor& b, const AddcOptions& options = {},
               Loc loc = Loc::current());

struct NanToNumOptions {
  double nan = 0.0;
  std::optional<double> posinf = {}, neginf = {};  // the dtype's largest and lowest number if left out
};
// NaN and the infinities replaced; other dtypes than floating ones have none and come back as they are. The gradient of
// what is replaced is 0.
Tensor nan_to_num(const Tensor& x, const NanToNumOptions& options = {}, Loc loc = Loc::current());

// ln(z / (1 - z)) of z = x held within [eps, 1 - eps]; ValueError unless eps is in [0, 1/2].
Tensor logit(const Tensor& x, double eps, Loc loc = Loc::current());

struct CloseOptions {
  double rtol = 1e-5, atol = 1e-8;  // 0 or more, else ValueError
  bool equal_nan = false;
};
// bool: a = b, or |a - b| <= atol + rtol |b| and finite.
Tensor isclose(const Tensor& a, const Tensor& b, const CloseOptions& options = {}, Loc loc = Loc::current());
// Whether all elements are; a host read.
bool allclose(const Tensor& a, const Tensor& b, const CloseOptions& options = {}, Loc loc = Loc::current());

}  // namespace flame
