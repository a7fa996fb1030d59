// Internal: small things that the layers' constructors share.
#pragma once
#include "flame/core/format.h"
#include "flame/nn/module.h"

namespace flame::nn {

inline Tensor tensor_or_none(const Param& p) { return p.defined() ? p.tensor() : Tensor{}; }
inline void check_float(const char* kind, DType t, Loc loc) {
  if (!is_float(t)) fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", kind, t);
}
inline void check_probability(const char* kind, double p, Loc loc) {
  if (!(p >= 0 && p <= 1)) fail<ValueError>(loc, "{}: expected a dropout probability in [0, 1], got {}", kind, p);
}

}  // namespace flame::nn
