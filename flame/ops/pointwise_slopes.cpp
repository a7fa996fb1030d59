// Derivatives of pointwise functions that are too long for their row of fuse/pointwise.def. In tensor ops, so that they
// fuse and can be differentiated again.
#include "flame/ops/pointwise_internal.h"

namespace flame {

Tensor silu_slope(const Tensor& x) {
  const Tensor s = sigmoid(x);
  return s * (x * (1 - s) + 1);
}

Tensor gelu_slope(const Tensor& x) {
  const Tensor phi = exp(x * x * -0.5) * 0.39894228040143267794;
  return (erf(x * 0.70710678118654752440) + 1) * 0.5 + x * phi;
}

// gelu_tanh is x s(2u) with the sigmoid s, 2u = c (x + 0.044715 x^3) and c = 2 sqrt(2 / pi).
Tensor gelu_tanh_slope(const Tensor& x) {
  constexpr double c = 1.59576912160573071176;
  const Tensor square = x * x, z = x * (square * (c * 0.044715) + c), s = sigmoid(z);
  return s + x * (square * (3 * c * 0.044715) + c) * (s * sigmoid(-z));  // 1 - s would cancel
}

Tensor mish_slope(const Tensor& x) {
  const Tensor t = tanh(softplus(x));
  return t + x * sigmoid(x) * (1 - t * t);
}

Tensor celu_width_slope(const Tensor& q) { return expm1(q) - exp(q) * q; }

Tensor sinc_slope(const Tensor& x, const Tensor& sinc) {
  // (-1)^k 2k pi^(2k) / (2k + 1)! for k = 1, 2, ...
  constexpr double c[] = {-3.289868133696453,    3.2469697011334144,   -1.1445109447325053,    0.2091827825412384,
                          -0.023460810354558236, 0.001781145516372852, -9.766223126318933e-05, 4.049947846619244e-06};
  const Tensor near = abs(x) < 0.25, square = x * x;
  Tensor series = square * c[7] + c[6];
  for (int k = 5; k >= 0; --k) series = series * square + c[k];
  const Tensor far = where(near, 1, x);
  return where(near, x * series, (cos(far * 3.14159265358979323846) - sinc) / far);
}

}  // namespace flame
