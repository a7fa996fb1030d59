// Padding of the last axes.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

enum class PadMode : uint8_t {
  constant,
  reflect,    // x[2] x[1] | x[0] x[1] ...: less than the size on each side
  replicate,  // x[0] x[0] | x[0] x[1] ...
  circular    // x[n-2] x[n-1] | x[0] x[1] ...: at most the size on each side
};
struct PadOptions {
  PadMode mode = PadMode::constant;
  Scalar value = 0.0;  // of constant
};
// sizes: before and after the last axis, before and after the one before it, ... Negative sizes take elements away.
// ShapeError if a size does not fit its axis.
Tensor pad(const Tensor& x, const std::vector<int64_t>& sizes, const PadOptions& o = {}, Loc loc = Loc::current());

}  // namespace flame
