// Internal: special functions of one number that pointwise.def names and neither the C library nor the vectors have.
// They work in float64, so that float32 results are rounded once. Accuracy: tests/kernels_test.cpp.
#pragma once
#include <cmath>
#include <limits>
#include <numbers>

#include "flame/fuse/scalar_math.h"

#ifdef __CUDACC_RTC__  // long functions that a kernel may name many times: compiled once
#define FLAME_APART __noinline__
#else
#define FLAME_APART
#endif

namespace flame::kernels {

inline constexpr double infinite = std::numeric_limits<double>::infinity();
inline constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

// c0 + c1 x + c2 x^2 + ...
template <int n>
constexpr double series(const double (&c)[n], double x) {
  double y = c[n - 1];
  for (int i = n - 2; i >= 0; --i) y = y * x + c[i];
  return y;
}

// Not std::lgamma, which writes a global.
inline float log_gamma(float x) {
  int sign = 0;
  return ::lgammaf_r(x, &sign);
}
inline double log_gamma(double x) {
  int sign = 0;
  return ::lgamma_r(x, &sign);
}

// The logarithmic derivative of the gamma function: recurrence to [1, 2], where the rational form of Boost.Math
// (digamma.hpp) splits off the root; from 10 on Stirling's series (DLMF 5.11.2); DLMF 5.5.4 for negative numbers.
FLAME_APART inline double digamma_of(double x) {
  if (x == 0) return std::copysign(infinite, -x);
  if (x < 0) {
    if (x == std::floor(x)) return undefined;
    return digamma_of(1 - x) - std::numbers::pi / std::tan(std::numbers::pi * (x - std::nearbyint(x)));
  }
  if (x >= 10) {
    constexpr double c[] = {1.0 / 12, -1.0 / 120, 1.0 / 252, -1.0 / 240, 1.0 / 132, -691.0 / 32760, 1.0 / 12};
    const double z = 1 / (x * x);
    return std::log(x) - 0.5 / x - z * series(c, z);
  }
  double y = 0;
  for (; x > 2; x -= 1) y += 1 / (x - 1);
  if (x < 1) {
    y = -1 / x;
    x += 1;
  }
  constexpr double head = 0.99558162689208984;
  constexpr double root[] = {1569415565.0 / 1073741824, 381566830.0 / 1073741824 / 1073741824, 0.9016312093258695e-19};
  constexpr double p[] = {0.254798510611315515235,  -0.314628554532916496608,  -0.665836341559876230295,
                          -0.314767657147375752913, -0.0541156266153505273939, -0.00289268368333918761452};
  constexpr double q[] = {1,
                          2.1195759927055347547,
                          1.54350554664961128724,
                          0.486986018231042975162,
                          0.0660481487173569812846,
                          0.00298999662592323990972,
                          -0.165079794012604905639e-5,
                          0.317940243105952177571e-7};
  const double g = x - root[0] - root[1] - root[2];
  return y + g * head + g * (series(p, x - 1) / series(q, x - 1));
}

// q^-s for a whole s above 0; few multiplications are faster than the C library and as right.
inline double inverse_power(double q, double s) {
  if (s > 6) return std::pow(q, -s);
  double y = q;
  for (int i = 1; i < s; ++i) y *= q;
  return 1 / y;
}
// The sum of (q + k)^-s over k = 0, 1, ..., for a whole s >= 2 and q > 0, by Euler and Maclaurin (DLMF 25.11.5).
FLAME_APART inline double hurwitz_zeta(double s, double q) {
  // B_2j / (2j)!
  constexpr double c[] = {1.0 / 12,
                          -1.0 / 720,
                          1.0 / 30240,
                          -1.0 / 1209600,
                          1.0 / 47900160.0,
                          -5.284190138687493e-10,
                          1.3382536530684679e-11,
                          -3.3896802963225829e-13};
  double sum = 0;
  for (const double enough = 10 + s; q < enough; q += 1) sum += inverse_power(q, s);
  const double last = inverse_power(q, s);
  sum += inverse_power(q, s - 1) / (s - 1) + 0.5 * last;
  double factor = s * last / q;
  for (int j = 0; j < 8; ++j) {
    sum += c[j] * factor;
    factor *= (s + 2 * j + 1) * (s + 2 * j + 2) / (q * q);
  }
  return sum;
}

// The n-th derivative of digamma, n rounded to a whole number: (-1)^(n+1) n! zeta(n + 1, x) (DLMF 5.15.1). For negative
// x the terms below and above 0 are two sums over positive numbers. Poles are infinite.
FLAME_APART inline double polygamma_of(double order, double x) {
  const double n = std::nearbyint(order), s = n + 1;
  if (!(n >= 0) || std::isnan(x)) return undefined;
  if (n == 0) return digamma_of(x);
  const bool odd = std::fmod(n, 2) != 0;
  double sum;
  if (n > 170 || (x <= 0 && x == std::floor(x))) sum = infinite;
  else if (x > 0) sum = hurwitz_zeta(s, x);
  else {
    const double r = x - std::nearbyint(x), above = r >= 0 ? r : 1 + r, below = r >= 0 ? 1 - r : -r;
    const double mirrored = hurwitz_zeta(s, below) - hurwitz_zeta(s, 1 - x);
    sum = hurwitz_zeta(s, above) + (odd ? mirrored : -mirrored);
  }
  return (odd ? 1 : -1) * std::tgamma(n + 1) * sum;
}

// The inverse of erf: algorithm AS 241 (Wichura 1988, PPND16), whose normal quantile is sqrt(2) times it.
FLAME_APART inline double erf_inverse(double x) {
  constexpr double a[] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                          1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                          3.3430575583588128105e4, 2.5090809287301226727e3};
  constexpr double b[] = {1.0,
                          4.2313330701600911252e1,
                          6.8718700749205790830e2,
                          5.3941960214247511077e3,
                          2.1213794301586595867e4,
                          3.9307895800092710610e4,
                          2.8729085735721942674e4,
                          5.2264952788528545610e3};
  constexpr double c[] = {1.42343711074968357734e0,  4.63033784615654529590e0, 5.76949722146069140550e0,
                          3.64784832476320460504e0,  1.27045825245236838258e0, 2.41780725177450611770e-1,
                          2.27238449892691845833e-2, 7.74545014278341407640e-4};
  constexpr double d[] = {1.0,
                          2.05319162663775882187e0,
                          1.67638483018380384940e0,
                          6.89767334985100004550e-1,
                          1.48103976427480074590e-1,
                          1.51986665636164571966e-2,
                          5.47593808499534494600e-4,
                          1.05075007164441684324e-9};
  constexpr double e[] = {6.65790464350110377720e0,  5.46378491116411436990e0,  1.78482653991729133580e0,
                          2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
                          2.71155556874348757815e-5, 2.01033439929228813265e-7};
  constexpr double f[] = {1.0,
                          5.99832206555887937690e-1,
                          1.36929880922735805310e-1,
                          1.48753612908506148525e-2,
                          7.86869131145613259100e-4,
                          1.84631831751005468180e-5,
                          1.42151175831644588870e-7,
                          2.04426310338993978564e-15};
  constexpr double root_half = 0.70710678118654752440;
  const double distance = std::fabs(x);
  if (!(distance <= 1)) return undefined;
  if (distance == 1) return std::copysign(infinite, x);
  if (distance <= 0.85) {
    const double r = 0.180625 - 0.25 * x * x;
    return 0.5 * x * (series(a, r) / series(b, r)) * root_half;
  }
  const double r = std::sqrt(-std::log(0.5 * (1 - distance)));
  const double z = r <= 5 ? series(c, r - 1.6) / series(d, r - 1.6) : series(e, r - 5) / series(f, r - 5);
  return std::copysign(z * root_half, x);
}

}  // namespace flame::kernels
