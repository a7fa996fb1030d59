// Device functions of the pointwise rows that the CPU computes in vectors, by the row's name, for float32 and float64.
// +, -, *, /, sqrt, minimum, maximum and roundings give the CPU's bits; the others are within 2 ulp.
#pragma once
#include "flame/fuse/scalar_math.h"

namespace flame::kernels {

template <class T>
T vec_neg(T a) {
  return -a;
}
template <class T>
T vec_abs(T a) {
  return std::fabs(a);
}
template <class T>
T vec_maximum(T a, T b) {
  return b < a || a != a ? a : b;
}
template <class T>
T vec_minimum(T a, T b) {
  return a < b || a != a ? a : b;
}
template <class T>
T vec_clamp(T a, T b, T c) {
  return vec_minimum(vec_maximum(a, b), c);
}
template <class T>
T vec_relu(T a) {
  return vec_maximum(a, T(0));
}
template <class T>
T vec_copysign(T a, T b) {
  return std::copysign(a, b);
}
template <class T>
T vec_floor(T a) {
  return std::copysign(std::floor(a), a);
}
template <class T>
T vec_ceil(T a) {
  return std::copysign(std::ceil(a), a);
}
template <class T>
T vec_round(T a) {
  return std::copysign(std::nearbyint(a), a);
}
template <class T>
T vec_trunc(T a) {
  return std::copysign(std::trunc(a), a);
}
template <class T>
T vec_sqrt(T a) {
  return std::sqrt(a);
}
template <class T>
T vec_rsqrt(T a) {
  return T(1) / std::sqrt(a);
}
template <class T>
T vec_pow(T a, T b) {
  return std::pow(a, b);
}

#define FLAME_UNARY(name)                                   \
  inline float vec_##name(float a) { return ::name##f(a); } \
  inline double vec_##name(double a) { return ::name(a); }
FLAME_UNARY(exp)
FLAME_UNARY(expm1)
FLAME_UNARY(exp2)
FLAME_UNARY(log)
FLAME_UNARY(log1p)
FLAME_UNARY(log2)
FLAME_UNARY(log10)
FLAME_UNARY(sin)
FLAME_UNARY(cos)
FLAME_UNARY(tanh)
FLAME_UNARY(erf)
inline float vec_erfc(float a) { return static_cast<float>(::erfc(static_cast<double>(a))); }
inline double vec_erfc(double a) { return ::erfc(a); }

// The rows below lose digits when composed in their own type: float32 is computed in float64 and rounded once.
inline double logaddexp64(double a, double b) {
  if (a == b) return a + 0.69314718055994530942;  // infinities included
  const double most = a > b ? a : b, d = a > b ? b - a : a - b;
  return a != a || b != b ? a + b : most + ::log1p(::exp(d));
}
inline double logaddexp264(double a, double b) {
  if (a == b) return a + 1;
  const double most = a > b ? a : b, d = a > b ? b - a : a - b;
  return a != a || b != b ? a + b : most + ::log1p(::exp2(d)) * 1.44269504088896340736;
}
inline double sigmoid64(double a) {
  const double e = ::exp(-::fabs(a));
  return (a >= 0 ? 1 : e) / (1 + e) + (a != a ? a : 0);
}
inline double softplus64(double a) { return (a > 0 ? a : 0) + ::log1p(::exp(-::fabs(a))); }
inline double silu64(double a) { return a * sigmoid64(a); }
inline double gelu64(double a) {
  return 0.5 * a * ::erfc(-a * 0.70710678118654752440);
}
inline double gelu_tanh64(double a) {
  return a * sigmoid64(2 * 0.79788456080286535588 * (a + 0.044715 * a * a * a));
}
inline double mish64(double a) {
  if (a == -std::numeric_limits<double>::infinity()) return -0.0;
  if (a > 40) return a;
  const double e = ::exp(a), n = e * (e + 2);
  return a * (n / (n + 2));
}
inline double tanhshrink64(double a) {
  if (::fabs(a) > 0.25) return a - ::tanh(a);
  // a - tanh(a) = a^3 / 3 - 2 a^5 / 15 + ..., without the cancellation.
  const double z = a * a;
  return a * z *
         (1.0 / 3 +
          z * (-2.0 / 15 +
               z * (17.0 / 315 +
                    z * (-62.0 / 2835 +
                         z * (1382.0 / 155925 +
                              z * (-21844.0 / 6081075 + z * (929569.0 / 638512875 +
                                                             z * (-6404582.0 / 10854718875.0 +
                                                                  z * (443861162.0 / 1856156927625.0 -
                                                                       z * (18888466084.0 / 194896477400625.0))))))))));
}
inline double selu64(double a) { return 1.05070098735548049342 * (a > 0 ? a : 1.67326324235437728481 * ::expm1(a)); }
inline double logit64(double a) { return ::log(a / (1 - a)); }
inline double sinc64(double a) { return a == 0 ? 1 : ::sinpi(a) / (3.14159265358979323846 * a); }
// Exact 1 - a in float64 for float32; for float64 as it is.
#define FLAME_THROUGH64(name)                                \
  inline double vec_##name(double a) { return name##64(a); } \
  inline float vec_##name(float a) { return static_cast<float>(name##64(static_cast<double>(a))); }
FLAME_THROUGH64(sigmoid)
FLAME_THROUGH64(softplus)
FLAME_THROUGH64(silu)
FLAME_THROUGH64(gelu)
FLAME_THROUGH64(gelu_tanh)
FLAME_THROUGH64(mish)
FLAME_THROUGH64(tanhshrink)
FLAME_THROUGH64(selu)
FLAME_THROUGH64(logit)
FLAME_THROUGH64(sinc)
// For 16-bit dtypes, whose rounding is coarser than what these lose in float32.
inline float near_sigmoid(float a) {
  const float e = ::expf(-::fabsf(a));
  return (a >= 0 ? 1.0f : e) / (1.0f + e) + (a != a ? a : 0.0f);
}
inline float near_softplus(float a) { return (a > 0 ? a : 0.0f) + ::log1pf(::expf(-::fabsf(a))) + (a != a ? a : 0.0f); }
inline float near_log_sigmoid(float a) { return -near_softplus(-a); }
inline float near_silu(float a) { return a * near_sigmoid(a); }
inline float near_gelu(float a) { return 0.5f * a * ::erfcf(-a * 0.70710678118654752440f); }
inline float near_gelu_tanh(float a) {
  return a * near_sigmoid(2 * 0.79788456080286535588f * (a + 0.044715f * a * a * a));
}
template <class T>
T vec_log_sigmoid(T a) {
  return -vec_softplus(-a);
}
template <class T>
T vec_logaddexp(T a, T b) {
  return static_cast<T>(logaddexp64(a, b));
}
template <class T>
T vec_logaddexp2(T a, T b) {
  return static_cast<T>(logaddexp264(a, b));
}
template <class T>
T vec_xlogy(T a, T b) {
  return b != b ? b : a == 0 ? T(0) : static_cast<T>(static_cast<double>(a) * ::log(static_cast<double>(b)));
}
template <class T>
T vec_xlog1py(T a, T b) {
  return b != b ? b : a == 0 ? T(0) : static_cast<T>(static_cast<double>(a) * ::log1p(static_cast<double>(b)));
}
template <class T>
T vec_elu(T a, T b) {
  return a > 0 ? a : static_cast<T>(static_cast<double>(b) * ::expm1(static_cast<double>(a)));
}
template <class T>
T vec_celu(T a, T b) {
  const double w = b;
  return a > 0 ? a : static_cast<T>(w * ::expm1(static_cast<double>(a) / w));
}

}  // namespace flame::kernels
