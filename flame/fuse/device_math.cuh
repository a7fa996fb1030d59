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
// erfc takes an error of its argument x 2 x^2 times: the product's rounding, and the constant's, are made good.
inline double gelu64(double a) {
  constexpr double root = 0.70710678118654752440, rest = -4.8336466567264567e-17;
  const double x = -a * root, off = ::fma(-a, root, -x) - a * rest;
  return 0.5 * a * (::erfc(x) - (::fabs(off) < 1 ? off * 1.12837916709551257390 * ::exp(-x * x) : 0.0));
}
inline double gelu_tanh64(double a) { return a * sigmoid64(2 * 0.79788456080286535588 * (a + 0.044715 * a * a * a)); }
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
inline double logit64(double a) {
  return ::fabs(a - 0.5) < 0.25 ? ::log1p((2 * a - 1) / (1 - a)) : ::log(a) - ::log1p(-a);
}
inline double sinc64(double a) { return a == 0 ? 1 : ::sinpi(a) / (3.14159265358979323846 * a); }
// Exact 1 - a in float64 for float32; for float64 as it is.
#define FLAME_THROUGH64(name)                                \
  inline double vec_##name(double a) { return name##64(a); } \
  inline float vec_##name(float a) { return static_cast<float>(name##64(static_cast<double>(a))); }
FLAME_THROUGH64(sigmoid)
FLAME_THROUGH64(softplus)
FLAME_THROUGH64(silu)
FLAME_THROUGH64(gelu_tanh)
FLAME_THROUGH64(mish)
FLAME_THROUGH64(tanhshrink)
FLAME_THROUGH64(selu)
FLAME_THROUGH64(logit)
FLAME_THROUGH64(sinc)
inline double vec_gelu(double a) { return gelu64(a); }
inline float reciprocal_near(float a) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}
// Of the coefficients of the highest power down to that of 1.
template <int n>
float polynomial(const float (&c)[n], float x) {
  float p = c[0];
#pragma unroll
  for (int i = 1; i < n; ++i) p = ::fmaf(p, x, c[i]);
  return p;
}
// max(a, 0) - t e^(-t t / 2) w with t = |a| and w = p(q) / (t + 3), q = (t - 3) / (t + 3), since float64 would bound the time.
// p is fitted to 2e-9; factors keep what their rounding leaves. 1.9 ulp at most.
inline float vec_gelu(float a) {
  const float t = ::fminf(::fabsf(a), 15.0f), r = reciprocal_near(t + 3.0f);
  float q = (t - 3.0f) * r;
  q = ::fmaf(::fmaf(-q, t, ::fmaf(q + 1.0f, -3.0f, t)), r, q);
  const float p = polynomial({5.2348747e-05f, 0.000127572086f, -0.000243548668f, -0.00102834683f, 0.0010248631f,
                              0.00696765725f, -0.0104626175f, -0.0472624414f, 0.230017707f, -0.509332001f},
                             q);
  const float high = ::fmaf(p, q, 0.729083717f), low = ::fmaf(p, q, 0.729083717f - high) - 2.64936002e-08f;
  const float w = high * r, w_rest = (::fmaf(-w, 3.0f, ::fmaf(-w, t, high)) + low) * r;
  // e^(-t t / 2) = 2^n (1 + x)
  const float square = t * t, magic = 12582912.0f, shifted = ::fmaf(square, -0.72134752f, magic), n = shifted - magic;
  float f = ::fmaf(n, -0.693145752f, -0.5f * square);
  f = ::fmaf(::fmaf(t, t, -square), -0.5f, ::fmaf(n, -1.42860677e-6f, f));
  const float e = polynomial({0.00138145592f, 0.0083687352f, 0.041668389f, 0.166665211f, 0.49999994f}, f);
  const float x = ::fmaf(e * f, f, f), grown = 1.0f + x, grown_rest = x - (grown - 1.0f);
  const float u = t * grown, u_rest = ::fmaf(t, grown_rest, ::fmaf(t, grown, -u));
  const float z = ::fmaf(w, u, ::fmaf(w, u_rest, w_rest * u));
  // 2^n, which may be too small for a float32, in two steps.
  const float scale = __int_as_float((__float_as_int(shifted) - __float_as_int(magic) + 127 + 60) << 23);
  const float y = (a < 0 ? -0.0f : a) - z * scale * 0x1p-60f;
  return a == -std::numeric_limits<float>::infinity() ? std::numeric_limits<float>::quiet_NaN() : y;
}
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
