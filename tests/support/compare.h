// How tests compare numbers: errors in units of a dtype's rounding, and equality bit for bit with NaN payloads aside.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "flame/autograd/autograd.h"
#include "flame/tensor/tensor.h"

namespace flame::test {

// FLAME_QUICK=1 reduces what is tried (sanitizers), FLAME_FULL=1 extends it.
inline bool quick() { return std::getenv("FLAME_QUICK") != nullptr; }
inline bool full() { return std::getenv("FLAME_FULL") != nullptr; }

// The largest relative error of one rounding to nearest.
inline double rounding(DType t) {
  switch (t) {
    case DType::f64: return 0x1p-53;
    case DType::f32: return 0x1p-24;
    case DType::f16: return 0x1p-11;
    case DType::bf16: return 0x1p-8;
    default: return 0;
  }
}

// Row-major values of any dtype as float64 (int64 beyond 2^53 are rounded).
inline std::vector<double> numbers(const Tensor& t) { return t.detach().to(DType::f64).to_vector<double>(); }

inline std::vector<unsigned char> bytes(const Tensor& t) {
  std::vector<unsigned char> out(static_cast<size_t>(t.numel()) * size_of(t.dtype()));
  t.detach().copy_to_host(out.data(), t.dtype());
  return out;
}

struct Deviation {
  double units = 0;  // the largest difference, in roundings of the dtype at the largest expected magnitude
  size_t at = 0;
  std::string text;  // what differs beyond measure: a shape, a NaN, an infinity
};

// Errors are taken against the largest expected magnitude, or against `floor` where a whole result cancels to less,
// since inputs are of size 1.
inline Deviation error_of(const std::vector<double>& got, const std::vector<double>& want, DType t,
                          double floor = 0.125) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const double largest = t == DType::f16   ? 65519.99
                         : t == DType::f64 ? inf
                                           : 3.4028235677973366e38;  // beyond: infinite
  Deviation e;
  if (got.size() != want.size()) return {inf, 0, "other number of elements"};
  double scale = floor;
  for (double w : want)
    if (std::abs(w) < largest) scale = std::max(scale, std::abs(w));
  const double unit = scale * (rounding(t) > 0 ? rounding(t) : 0x1p-53);
  for (size_t i = 0; i < got.size(); ++i) {
    const double expected = is_float(t) && std::abs(want[i]) > largest ? std::copysign(inf, want[i]) : want[i];
    const bool special = !std::isfinite(got[i]) || !std::isfinite(expected);
    const bool same = got[i] == expected || (std::isnan(got[i]) && std::isnan(expected));
    if (special && !same) return {inf, i, "got " + std::to_string(got[i]) + ", expected " + std::to_string(expected)};
    if (special) continue;
    if (const double units = std::abs(got[i] - expected) / unit; units > e.units) e = {units, i, ""};
  }
  return e;
}
inline Deviation error_of(const Tensor& got, const Tensor& want) {
  if (got.shape() != want.shape())
    return {std::numeric_limits<double>::infinity(), 0,
            "shape " + to_string(got.shape()) + ", expected " + to_string(want.shape())};
  if (is_float(got.dtype()) != is_float(want.dtype()))
    return {std::numeric_limits<double>::infinity(), 0, "dtype " + std::string(name_of(got.dtype()))};
  return error_of(numbers(got), numbers(want), got.dtype());
}

template <class T>
bool same_elements(const void* a, const void* b, size_t n, size_t& at) {
  const T *x = static_cast<const T*>(a), *y = static_cast<const T*>(b);
  for (size_t i = 0; i < n; ++i) {
    if (std::memcmp(x + i, y + i, sizeof(T)) == 0) continue;
    const auto nan = [](T v) {
      if constexpr (std::is_integral_v<T>) return false;
      else return std::isnan(static_cast<double>(static_cast<float>(v)));
    };
    if (nan(x[i]) && nan(y[i])) continue;
    at = i;
    return false;
  }
  return true;
}

// Empty if equal: shape, dtype and every bit, NaN payloads aside.
inline std::string difference(const Tensor& a, const Tensor& b) {
  if (a.defined() != b.defined()) return "one is undefined";
  if (!a.defined()) return {};
  if (a.shape() != b.shape()) return "shapes " + to_string(a.shape()) + " and " + to_string(b.shape());
  if (a.dtype() != b.dtype())
    return "dtypes " + std::string(name_of(a.dtype())) + " and " + std::string(name_of(b.dtype()));
  const std::vector<unsigned char> x = bytes(a), y = bytes(b);
  size_t at = 0;
  const bool same = visit_dtype(a.dtype(), [&](auto v) {
    return same_elements<decltype(v)>(x.data(), y.data(), static_cast<size_t>(a.numel()), at);
  });
  if (same) return {};
  return "element " + std::to_string(at) + ": " + std::to_string(numbers(a)[at]) + " and " +
         std::to_string(numbers(b)[at]);
}
inline bool same_bits(const Tensor& a, const Tensor& b) { return difference(a, b).empty(); }

}  // namespace flame::test
