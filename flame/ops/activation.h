// Activations beyond the rows of fuse/pointwise.def (relu, silu, gelu, mish, selu, hardswish, softsign, ...): PyTorch's
// defaults for the rows that take numbers, and those that look at an axis. Integers become float32.
#pragma once
#include "flame/ops/pointwise.h"

namespace flame {

inline Tensor leaky_relu(const Tensor& x, Loc loc = Loc::current()) { return leaky_relu(x, 0.01, loc); }
inline Tensor elu(const Tensor& x, Loc loc = Loc::current()) { return elu(x, 1.0, loc); }
inline Tensor celu(const Tensor& x, Loc loc = Loc::current()) { return celu(x, 1.0, loc); }
inline Tensor softshrink(const Tensor& x, Loc loc = Loc::current()) { return softshrink(x, 0.5, loc); }
inline Tensor hardshrink(const Tensor& x, Loc loc = Loc::current()) { return hardshrink(x, 0.5, loc); }
inline Tensor hardtanh(const Tensor& x, Loc loc = Loc::current()) { return hardtanh(x, -1, 1, loc); }

// PyTorch's gelu(x, approximate="tanh") is gelu(x, Approximate::tanh), or gelu_tanh(x).
enum class Approximate : uint8_t { none, tanh };
Tensor gelu(const Tensor& x, Approximate approximate, Loc loc = Loc::current());

// By name; none gives x itself.
Tensor activate(const Tensor& x, Activation activation, Loc loc = Loc::current());

struct SoftplusOptions {
  double beta = 1.0;
  double threshold = 20.0;  // above x beta = threshold the result is x, as in PyTorch
};
// ln(1 + e^(x beta)) / beta. softplus(x) alone is exact for every x. ValueError if beta is 0.
Tensor softplus(const Tensor& x, const SoftplusOptions& options, Loc loc = Loc::current());

// x where it is positive, else x times weight: of one element, or one for each channel, axis 1 (of rank 0 and 1: one).
// Both floating (DTypeError); a weight of another shape is a ShapeError. The weight gets a gradient.
Tensor prelu(const Tensor& x, const Tensor& weight, Loc loc = Loc::current());

// Gated units: x is split into halves a, b along `axis`; glu is a sigmoid(b), swiglu silu(a) b and geglu gelu(a) b, so
// that the first half of the latter is the gate (Shazeer 2020). ShapeError for an odd size. Only x is kept for backward.
Tensor glu(const Tensor& x, int64_t axis = -1, Loc loc = Loc::current());
Tensor swiglu(const Tensor& x, int64_t axis = -1, Loc loc = Loc::current());
Tensor geglu(const Tensor& x, int64_t axis = -1, Approximate approximate = Approximate::none, Loc loc = Loc::current());

}  // namespace flame
