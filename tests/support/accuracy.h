// The accuracy of pointwise rows: a reference in long double, where it is tried, and the bounds on the CPU and on the GPU.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>

namespace flame::test {

using Wide = long double;
// Reference, range of the random inputs (both sides), and the largest error allowed in ulp for float32 and float64. A
// result of less than `least` is measured in the ulp of that: where two terms cancel, or a root has no exact argument.
struct Reference {
  std::function<Wide(Wide, Wide)> fn;
  double lo, hi;
  double ulp32, ulp64;
  double least = 0;
  double gpu32 = 0, gpu64 = 0;  // on the GPU; 0: as on the CPU
};
inline Wide erfc_of(Wide x) { return std::erfc(x); }
inline constexpr Wide pi = 3.14159265358979323846264338327950288L;
inline Wide log_add(Wide a, Wide b) {
  return a == b ? a + std::log(Wide(2)) : std::max(a, b) + std::log1p(std::exp(-std::fabs(a - b)));
}
// The root of erf(y) = x by Newton's steps, in terms of erfc where erf is near 1.
inline Wide erfinv_of(Wide x) {
  const Wide t = std::fabs(x);
  if (!(t <= 1)) return NAN;
  if (t == 1) return std::copysign(std::numeric_limits<Wide>::infinity(), x);
  Wide y = t > 0.7L ? std::sqrt(-std::log1p(-t)) : t * std::sqrt(pi) / 2;
  for (int i = 0; i < 60; ++i) {
    const Wide off = t > 0.5L ? std::erfc(y) - (1 - t) : t - std::erf(y);
    y += off * std::sqrt(pi) / 2 * std::exp(y * y);
  }
  return std::copysign(y, x);
}
// From the asymptotic series at x + 40.
inline Wide digamma_of(Wide x) {
  if (x == 0) return std::copysign(std::numeric_limits<Wide>::infinity(), -x);
  if (x < 0) return x == std::floor(x) ? NAN : digamma_of(1 - x) - pi / std::tan(pi * (x - std::nearbyint(x)));
  if (std::isinf(x)) return x;
  Wide y = 0;
  for (; x < 40; x += 1) y -= 1 / x;
  const Wide z = 1 / (x * x);
  return y + std::log(x) - 1 / (2 * x) -
         z * (1 / 12.0L - z * (1 / 120.0L - z * (1 / 252.0L - z * (1 / 240.0L - z / 132))));
}
inline Wide sinc_of(Wide x) {
  if (x == 0) return 1;
  const Wide n = std::nearbyint(x), s = std::sin(pi * (x - n));
  return (std::fmod(n, Wide(2)) == 0 ? s : -s) / (pi * x);
}
inline Wide gelu_tanh_of(Wide x) { return x / (1 + std::exp(-2 * std::sqrt(2 / pi) * (x + 0.044715L * x * x * x))); }
inline Wide mish_of(Wide x) {
  const Wide e = std::exp(std::min(x, Wide(50))), w = e * (e + 2);
  return x * (w / (w + 2));
}
inline const std::map<std::string, Reference>& references() {
  static const std::map<std::string, Reference> table = {
      {"add", {[](Wide a, Wide b) { return a + b; }, -100, 100, 0.5, 0.5}},
      {"sub", {[](Wide a, Wide b) { return a - b; }, -100, 100, 0.5, 0.5}},
      {"mul", {[](Wide a, Wide b) { return a * b; }, -100, 100, 0.5, 0.5}},
      {"div", {[](Wide a, Wide b) { return a / b; }, -100, 100, 0.51, 0.51}},
      {"pow", {[](Wide a, Wide b) { return std::pow(a, b); }, 0, 30, 0.51, 1, 0, 0, 2}},
      {"neg", {[](Wide a, Wide) { return -a; }, -100, 100, 0, 0}},
      {"abs", {[](Wide a, Wide) { return std::fabs(a); }, -100, 100, 0, 0}},
      {"square", {[](Wide a, Wide) { return a * a; }, -100, 100, 0.5, 0.5}},
      {"reciprocal", {[](Wide a, Wide) { return 1 / a; }, -100, 100, 0.51, 0.51}},
      {"sqrt", {[](Wide a, Wide) { return std::sqrt(a); }, 0, 1e6, 0.51, 0.51}},
      {"rsqrt", {[](Wide a, Wide) { return 1 / std::sqrt(a); }, 0, 1e6, 1.5, 1.5}},
      {"exp", {[](Wide a, Wide) { return std::exp(a); }, -103, 89, 1.5, 1.5, 0, 2, 0}},
      {"expm1", {[](Wide a, Wide) { return std::expm1(a); }, -40, 89, 0.51, 3, 0, 2, 0}},
      {"log", {[](Wide a, Wide) { return std::log(a); }, 0, 3, 1.5, 1.5}},
      {"log1p", {[](Wide a, Wide) { return std::log1p(a); }, -1, 4, 0.51, 2, 0, 1.5, 0}},
      {"log2", {[](Wide a, Wide) { return std::log2(a); }, 0, 3, 0.51, 3, 0, 1.5, 0}},
      {"log10", {[](Wide a, Wide) { return std::log10(a); }, 0, 3, 0.51, 3, 0, 2.5, 0}},
      {"sin", {[](Wide a, Wide) { return std::sin(a); }, -1000, 1000, 0.51, 1, 0, 2, 2}},
      {"cos", {[](Wide a, Wide) { return std::cos(a); }, -1000, 1000, 0.51, 1, 0, 2, 2}},
      {"tan", {[](Wide a, Wide) { return std::tan(a); }, -100, 100, 1.5, 1.5, 0, 0, 2}},
      {"asin", {[](Wide a, Wide) { return std::asin(a); }, -1, 1, 1.5, 1, 0, 0, 2}},
      {"acos", {[](Wide a, Wide) { return std::acos(a); }, -1, 1, 1.5, 1, 0, 0, 2}},
      {"atan", {[](Wide a, Wide) { return std::atan(a); }, -50, 50, 1.5, 1, 0, 0, 2}},
      {"atan2", {[](Wide a, Wide b) { return std::atan2(a, b); }, -50, 50, 1.5, 1, 0, 0, 2}},
      {"sinh", {[](Wide a, Wide) { return std::sinh(a); }, -88, 88, 2, 2.5}},
      {"cosh", {[](Wide a, Wide) { return std::cosh(a); }, -88, 88, 2, 2.5}},
      {"tanh", {[](Wide a, Wide) { return std::tanh(a); }, -20, 20, 0.51, 3, 0, 2, 0}},
      {"sigmoid", {[](Wide a, Wide) { return 1 / (1 + std::exp(-a)); }, -87, 87, 2, 2.5}},
      {"silu", {[](Wide a, Wide) { return a / (1 + std::exp(-a)); }, -87, 87, 0.51, 3}},
      {"gelu",
       {[](Wide a, Wide) { return a * erfc_of(-a * 0.70710678118654752440084436210485L) / 2; }, -13, 13, 0.51, 5, 0,
        1.9, 8}},
      {"erf", {[](Wide a, Wide) { return std::erf(a); }, -6, 6, 0.51, 2, 0, 1.5, 0}},
      {"softplus",
       {[](Wide a, Wide) { return (a > 0 ? a : 0) + std::log1p(std::exp(-std::fabs(a))); }, -87, 87, 0.51, 3}},
      {"exp2", {[](Wide a, Wide) { return std::exp2(a); }, -149, 127, 0.51, 1.5, 0, 2, 0}},
      {"asinh", {[](Wide a, Wide) { return std::asinh(a); }, -100, 100, 1.5, 2}},
      {"acosh", {[](Wide a, Wide) { return std::acosh(a); }, 1, 100, 2, 2}},
      {"atanh", {[](Wide a, Wide) { return std::atanh(a); }, -1, 1, 1.5, 2}},
      {"sinc", {[](Wide a, Wide) { return sinc_of(a); }, -20, 20, 0.51, 3}},
      {"erfc", {[](Wide a, Wide) { return erfc_of(a); }, -6, 9, 0.51, 5}},
      {"erfinv", {[](Wide a, Wide) { return erfinv_of(a); }, -1, 1, 0.51, 8}},
      {"lgamma", {[](Wide a, Wide) { return std::lgamma(a); }, 0, 100, 3, 3, 0.5}},
      {"digamma", {[](Wide a, Wide) { return digamma_of(a); }, 0, 100, 0.51, 4, 1}},
      {"logit",
       {[](Wide a, Wide) {
          return a == 1                        ? std::numeric_limits<Wide>::infinity()
                 : std::fabs(a - 0.5L) < 0.25L ? std::log1p((2 * a - 1) / (1 - a))
                                               : std::log(a) - std::log1p(-a);
        },
        0, 1, 0.51, 4}},
      {"xlogy", {[](Wide a, Wide b) { return a == 0 && !std::isnan(b) ? 0 : a * std::log(b); }, 0, 30, 2, 2}},
      {"xlog1py",
       {[](Wide a, Wide b) { return a == 0 && !std::isnan(b) ? 0 : a * std::log1p(b); }, -0.9, 30, 1.5, 2.5, 0, 0, 3}},
      {"logaddexp", {log_add, -80, 80, 0.51, 2, 1}},
      {"logaddexp2",
       {[](Wide a, Wide b) {
          return a == b ? a + 1 : log_add(a * std::log(Wide(2)), b * std::log(Wide(2))) / std::log(Wide(2));
        },
        -80, 80, 0.51, 2, 1}},
      {"hypot", {[](Wide a, Wide b) { return std::hypot(a, b); }, -100, 100, 1, 1, 0, 0, 2}},
      {"deg2rad", {[](Wide a, Wide) { return a * (pi / 180); }, -400, 400, 1.5, 1.5}},
      {"rad2deg", {[](Wide a, Wide) { return a * (180 / pi); }, -10, 10, 1.5, 1.5}},
      {"frac", {[](Wide a, Wide) { return a - std::trunc(a); }, -100, 100, 0, 0}},
      {"copysign", {[](Wide a, Wide b) { return std::copysign(a, b); }, -100, 100, 0, 0}},
      {"elu", {[](Wide a, Wide b) { return a > 0 ? a : b * std::expm1(a); }, -40, 40, 0.51, 3}},
      {"selu",
       {[](Wide a, Wide) {
          return a > 0 ? a * 1.0507009873554804934193349852946L : 1.7580993408473768599402175208123L * std::expm1(a);
        },
        -40, 40, 0.51, 3}},
      {"gelu_tanh", {[](Wide a, Wide) { return gelu_tanh_of(a); }, -5, 8, 0.51, 40}},
      {"mish", {[](Wide a, Wide) { return mish_of(a); }, -80, 80, 0.51, 4}},
      {"log_sigmoid",
       {[](Wide a, Wide) { return (a < 0 ? a : 0) - std::log1p(std::exp(-std::fabs(a))); }, -87, 87, 0.51, 3}},
      {"tanhshrink", {[](Wide a, Wide) { return a - std::tanh(a); }, -20, 20, 0.51, 2, 1}},
      {"softsign", {[](Wide a, Wide) { return a / (1 + std::fabs(a)); }, -100, 100, 1.5, 1.5}},
      {"hardsigmoid",
       {[](Wide a, Wide) { return std::isnan(a) ? a : std::clamp(a + 3, Wide(0), Wide(6)) / 6; }, -5, 5, 1.5, 1.5,
        0.5}},
      {"leaky_relu", {[](Wide a, Wide b) { return a > 0 ? a : a * b; }, -100, 100, 0.5, 0.5}},
      {"fmod", {[](Wide a, Wide b) { return std::fmod(a, b); }, -100, 100, 0, 0}},
      {"floor", {[](Wide a, Wide) { return std::floor(a); }, -100, 100, 0, 0}},
      {"ceil", {[](Wide a, Wide) { return std::ceil(a); }, -100, 100, 0, 0}},
      {"round", {[](Wide a, Wide) { return std::nearbyint(a); }, -100, 100, 0, 0}},
      {"trunc", {[](Wide a, Wide) { return std::trunc(a); }, -100, 100, 0, 0}},
  };
  return table;
}

template <class T>
double ulp_error(T got, Wide want, double least) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const T rounded = static_cast<T>(want);
  if (std::isnan(want) || std::isnan(got)) return std::isnan(want) && std::isnan(got) ? 0 : inf;
  if (std::isinf(rounded) || std::isinf(got))
    return rounded == got ? 0 : std::isinf(want) ? inf : std::fabs(got) == std::numeric_limits<T>::max() ? 1 : inf;
  int exponent = 0;
  std::frexp(std::max(std::fabs(want), Wide(least)), &exponent);
  const int lowest = std::numeric_limits<T>::min_exponent - std::numeric_limits<T>::digits;
  const Wide ulp = std::ldexp(Wide(1), std::max(exponent - std::numeric_limits<T>::digits, lowest));
  return static_cast<double>(std::fabs(static_cast<Wide>(got) - want) / ulp);
}

}  // namespace flame::test
