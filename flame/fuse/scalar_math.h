// Internal: element functions that pointwise.def names in its `scalar` column, for every dtype the kernels compute in.
// Integers wrap instead of overflowing, and dividing by zero gives zero, so that no input is undefined behaviour.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>

namespace flame::kernels {

template <class T>
constexpr bool is_number = std::is_integral_v<T> && !std::is_same_v<T, bool>;

template <class T>
inline T plus(T a, T b) {
  if constexpr (is_number<T>)
    return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) + static_cast<std::make_unsigned_t<T>>(b));
  else return static_cast<T>(a + b);
}
template <class T>
inline T minus(T a, T b) {
  if constexpr (is_number<T>)
    return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) - static_cast<std::make_unsigned_t<T>>(b));
  else return static_cast<T>(a - b);
}
template <class T>
inline T times(T a, T b) {
  // In 64 bits, since a product of two promoted uint8 or uint16 would be signed.
  if constexpr (is_number<T>)
    return static_cast<T>(static_cast<unsigned long long>(a) * static_cast<unsigned long long>(b));
  else return static_cast<T>(a * b);
}
template <class T>
inline T quotient(T a, T b) {
#ifdef __CUDACC_RTC__  // NVRTC 13.0 takes 0 / 0 of numbers that it knows to equal itself
  if constexpr (std::is_same_v<T, float>) return __fdiv_rn(a, b);
  else if constexpr (std::is_same_v<T, double>) return __ddiv_rn(a, b);
  else
#endif
    return a / b;
}
template <class T>
inline T fused(T a, T b, T c) {
  if constexpr (std::is_floating_point_v<T>) return std::fma(a, b, c);
  else return plus(times(a, b), c);
}
template <class T>
inline T absolute(T a) {
  if constexpr (std::is_floating_point_v<T>) return std::fabs(a);
  else if constexpr (std::is_signed_v<T>) return a < 0 ? minus(T(0), a) : a;
  else return a;
}
template <class T>
inline T sign_of(T a) {
  return static_cast<T>((T(0) < a) - (a < T(0)));
}
template <class T>
inline T greater(T a, T b) {
  return a < b ? b : a;
}
template <class T>
inline T lesser(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline T inverted(T a) {
  if constexpr (std::is_same_v<T, bool>) return !a;
  else return static_cast<T>(~a);
}
template <class T>
inline bool is_infinite(T a) {
  if constexpr (std::is_floating_point_v<T>) return std::fabs(a) == std::numeric_limits<T>::infinity();
  else return false;
}
template <class T>
inline bool is_finite(T a) {
  if constexpr (std::is_floating_point_v<T>) return std::fabs(a) <= std::numeric_limits<T>::max();
  else return true;
}
// a - b trunc(a / b): the sign of a.
template <class T>
inline T truncated_modulo(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmod(a, b);
  else if constexpr (std::is_signed_v<T>) return b == 0 || b == -1 ? T(0) : static_cast<T>(a % b);
  else return b == 0 ? T(0) : static_cast<T>(a % b);
}
// a - b floor(a / b): the sign of b, as Python's %.
template <class T>
inline T floored_modulo(T a, T b) {
  const T r = truncated_modulo(a, b);
  if constexpr (std::is_unsigned_v<T>) return r;
  else return r != 0 && (r < 0) != (b < 0) ? plus(r, b) : r;
}
// floor(a / b), from the remainder, so that no rounding of the quotient reaches the next integer.
template <class T>
inline T floored_quotient(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (b == 0) return a / b;
    if constexpr (sizeof(T) == 4)  // a float64 quotient is on the right side of every integer it can tell
      if (is_finite(a) && is_finite(b)) return static_cast<T>(std::floor(static_cast<double>(a) / b));
    const T r = std::fmod(a, b);
    T q = (a - r) / b;
    if (r != 0 && (b < 0) != (r < 0)) q -= 1;
    if (q == 0) return std::copysign(T(0), a / b);
    const T floor = std::floor(q);
    return q - floor > T(0.5) ? floor + 1 : floor;
  } else {
    if (b == 0) return T(0);
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return minus(T(0), a);
      return static_cast<T>(a / b - (a % b != 0 && (a < 0) != (b < 0)));
    } else {
      return static_cast<T>(a / b);
    }
  }
}
template <class T>
inline T power(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return std::pow(a, b);
  } else {
    if constexpr (std::is_signed_v<T>)
      if (b < 0) return a == 1 ? T(1) : a == -1 ? (b & 1 ? T(-1) : T(1)) : T(0);
    T y = 1;
    for (; b != 0; b = static_cast<T>(b >> 1), a = times(a, a))
      if (b & 1) y = times(y, a);
    return y;
  }
}

template <class T>
inline bool has_sign(T a) {
  if constexpr (std::is_floating_point_v<T>) return std::signbit(a);
  else if constexpr (std::is_signed_v<T>) return a < 0;
  else return false;
}
// Shifts by less than 0 or by the width and more shift everything out. A bool has one bit.
template <class T>
inline T shifted_left(T a, T b) {
  constexpr int64_t width = std::is_same_v<T, bool> ? 1 : 8 * sizeof(T);
  const auto n = static_cast<int64_t>(b);
  if (n < 0 || n >= width) return T(0);
  return static_cast<T>(static_cast<unsigned long long>(a) << n);
}
template <class T>
inline T shifted_right(T a, T b) {
  constexpr int64_t width = std::is_same_v<T, bool> ? 1 : 8 * sizeof(T);
  const auto n = static_cast<int64_t>(b);
  if (n < 0 || n >= width) return has_sign(a) ? inverted(T(0)) : T(0);
  return static_cast<T>(a >> n);
}
template <class T>
inline T common_divisor(T a, T b) {
  if constexpr (std::is_same_v<T, bool>) {
    return a | b;
  } else {
    auto x = static_cast<std::make_unsigned_t<T>>(absolute(a)), y = static_cast<std::make_unsigned_t<T>>(absolute(b));
    while (y != 0) {
      x = static_cast<std::make_unsigned_t<T>>(x % y);
      std::swap(x, y);
    }
    return static_cast<T>(x);
  }
}
template <class T>
inline T common_multiple(T a, T b) {
  if constexpr (std::is_same_v<T, bool>) {
    return a & b;
  } else {
    const T d = common_divisor(a, b);
    return d == 0 ? T(0) : absolute(times(static_cast<T>(a / d), b));
  }
}

}  // namespace flame::kernels
