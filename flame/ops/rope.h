// Rotary position embedding (Su et al. 2021): pairs of features turn by an angle that grows with their position.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

struct RopeOptions {
  double base = 10000;       // pair i of n turns by position * base^(-i / n)
  int64_t offset = 0;        // the position of the first row, where no positions are given
  Tensor positions = {};     // int64, int32 or floating, broadcasts against [..., T]; without a gradient
  bool interleaved = false;  // pairs are (2i, 2i + 1) instead of (i, i + dims / 2)
  int64_t dims = 0;          // the first so many features turn, the rest pass; 0: all
};
// x [..., T, D], with D (or dims) even -> the same shape and dtype. Cosines and sines are made in float32 (float64 for
// float64) from float64 angles; float16 and bfloat16 are computed in float32. The gradient is the opposite rotation.
// Errors: ShapeError, DTypeError, ValueError (base, dims).
Tensor rope(const Tensor& x, const RopeOptions& o = {}, Loc loc = Loc::current());

}  // namespace flame
