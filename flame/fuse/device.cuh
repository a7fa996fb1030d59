// The ground that all device code stands on: types, 16-bit conversions, and the few names of the standard library that
// headers shared with the host use. Compiled by NVRTC with no other include; functions are for the device by default.
#pragma once

typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

namespace std {
using ::int64_t;
using ::uint16_t;
using ::uint32_t;
using ::uint64_t;
using ::uint8_t;

template <class T, class U>
constexpr bool is_same_v = false;
template <class T>
constexpr bool is_same_v<T, T> = true;
template <class T>
constexpr bool is_floating_point_v = is_same_v<T, float> || is_same_v<T, double>;
template <class T>
constexpr bool is_unsigned_v = !is_floating_point_v<T> && T(-1) > T(0);
template <>
constexpr bool is_unsigned_v<bool> = true;
template <class T>
constexpr bool is_signed_v = !is_unsigned_v<T>;
template <class T>
constexpr bool is_integral_v =
    is_same_v<T, bool> || is_same_v<T, int8_t> || is_same_v<T, uint8_t> || is_same_v<T, int32_t> ||
    is_same_v<T, uint32_t> || is_same_v<T, int64_t> || is_same_v<T, uint64_t>;
template <class T>
struct unsigned_of {
  using type = T;
};
template <>
struct unsigned_of<int8_t> {
  using type = uint8_t;
};
template <>
struct unsigned_of<int32_t> {
  using type = uint32_t;
};
template <>
struct unsigned_of<int64_t> {
  using type = uint64_t;
};
template <class T>
using make_unsigned_t = typename unsigned_of<T>::type;
template <class T>
void swap(T& a, T& b) {
  const T c = a;
  a = b;
  b = c;
}
template <class T, size_t n>
struct array {
  T v[n];
  constexpr T& operator[](size_t i) { return v[i]; }
  constexpr const T& operator[](size_t i) const { return v[i]; }
};
template <class To, class From>
To bit_cast(const From& x) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}

template <class T>
struct numeric_limits;
template <>
struct numeric_limits<float> {
  static constexpr float max() { return 3.402823466e+38f; }
  static constexpr float lowest() { return -max(); }
  static constexpr float infinity() { return __builtin_bit_cast(float, 0x7f800000); }
  static constexpr float quiet_NaN() { return __builtin_bit_cast(float, 0x7fc00000); }
};
template <>
struct numeric_limits<double> {
  static constexpr double max() { return 1.7976931348623157e+308; }
  static constexpr double lowest() { return -max(); }
  static constexpr double infinity() { return __builtin_bit_cast(double, 0x7ff0000000000000ll); }
  static constexpr double quiet_NaN() { return __builtin_bit_cast(double, 0x7ff8000000000000ll); }
};
template <>
struct numeric_limits<bool> {
  static constexpr bool max() { return true; }
  static constexpr bool lowest() { return false; }
};
template <>
struct numeric_limits<uint8_t> {
  static constexpr uint8_t max() { return 255; }
  static constexpr uint8_t lowest() { return 0; }
};
template <>
struct numeric_limits<int8_t> {
  static constexpr int8_t max() { return 127; }
  static constexpr int8_t lowest() { return -128; }
};
template <>
struct numeric_limits<int32_t> {
  static constexpr int32_t max() { return 2147483647; }
  static constexpr int32_t lowest() { return -max() - 1; }
};
template <>
struct numeric_limits<int64_t> {
  static constexpr int64_t max() { return 9223372036854775807; }
  static constexpr int64_t lowest() { return -max() - 1; }
};
namespace numbers {
constexpr double pi = 3.14159265358979323846;
}

// float32 functions whose device versions are more than 2 ulp off are computed in float64 and rounded once.
#define FLAME_EXACT(name)                             \
  inline float name(float x) { return ::name##f(x); } \
  inline double name(double x) { return ::name(x); }
#define FLAME_WIDE(name)                                                                    \
  inline float name(float x) { return static_cast<float>(::name(static_cast<double>(x))); } \
  inline double name(double x) { return ::name(x); }
#define FLAME_WIDE2(name)                                                              \
  inline float name(float x, float y) {                                                \
    return static_cast<float>(::name(static_cast<double>(x), static_cast<double>(y))); \
  }                                                                                    \
  inline double name(double x, double y) { return ::name(x, y); }
FLAME_EXACT(fabs)
FLAME_EXACT(floor)
FLAME_EXACT(ceil)
FLAME_EXACT(trunc)
FLAME_EXACT(nearbyint)
FLAME_EXACT(sqrt)
FLAME_EXACT(log)
FLAME_EXACT(exp)
FLAME_EXACT(asin)
FLAME_EXACT(acos)
FLAME_EXACT(atan)
FLAME_EXACT(cosh)
FLAME_WIDE(tan)
FLAME_WIDE(sinh)
FLAME_WIDE(asinh)
FLAME_WIDE(acosh)
FLAME_WIDE(atanh)
FLAME_WIDE(tgamma)
FLAME_WIDE2(atan2)
FLAME_WIDE2(hypot)
FLAME_WIDE2(pow)
inline float fmod(float x, float y) { return ::fmodf(x, y); }
inline double fmod(double x, double y) { return ::fmod(x, y); }
inline float fma(float x, float y, float z) { return ::fmaf(x, y, z); }
inline double fma(double x, double y, double z) { return ::fma(x, y, z); }
inline float copysign(float x, float y) { return ::copysignf(x, y); }
inline double copysign(double x, double y) { return ::copysign(x, y); }
inline bool signbit(float x) { return __float_as_int(x) < 0; }
inline bool signbit(double x) { return __double_as_longlong(x) < 0; }
inline bool isnan(float x) { return x != x; }
inline bool isnan(double x) { return x != x; }
}  // namespace std
inline float lgammaf_r(float x, int*) { return static_cast<float>(::lgamma(static_cast<double>(x))); }
inline double lgamma_r(double x, int*) { return ::lgamma(x); }

namespace flame {

// The 16-bit dtypes as they lie in memory; computing is done in float32.
struct half {
  uint16_t bits;
};
struct bhalf {
  uint16_t bits;
};

inline float widen(half h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.bits));
  return f;
}
inline float widen(bhalf h) { return __uint_as_float(static_cast<uint32_t>(h.bits) << 16); }
template <class T>
T widen(T x) {
  return x;
}
inline half narrow_half(float f) {
  half h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(f));
  return h;
}
inline bhalf narrow_bhalf(float f) {
  bhalf h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h.bits) : "f"(f));
  return h;
}
// float32 rounded to a 16-bit dtype and back.
inline float round_half(float f) { return widen(narrow_half(f)); }
inline float round_bhalf(float f) { return widen(narrow_bhalf(f)); }

// Computed numbers into memory's type: the rules of a cast.
template <class To, class From>
struct Convert {
  static To of(From x) {
    if constexpr (std::is_same_v<To, bool>) return x != From(0);
    else if constexpr (sizeof(To) == 1 && std::is_floating_point_v<From>)
      return static_cast<To>(static_cast<int64_t>(x));
    else return static_cast<To>(x);
  }
};
template <class From>
struct Convert<half, From> {
  static half of(From x) { return narrow_half(static_cast<float>(x)); }
};
template <class From>
struct Convert<bhalf, From> {
  static bhalf of(From x) { return narrow_bhalf(static_cast<float>(x)); }
};
template <class To, class From>
To convert(From x) {
  return Convert<To, From>::of(x);
}

// What a dtype is computed in.
template <class T>
struct Computed {
  using type = T;
};
template <>
struct Computed<half> {
  using type = float;
};
template <>
struct Computed<bhalf> {
  using type = float;
};
template <class T>
using computed = typename Computed<T>::type;

template <class T, int n>
struct alignas(sizeof(T) * n < 16 ? sizeof(T) * n : 16) Pack {
  T v[n];
};

// Reads what nothing writes during the launch.
template <class T>
T read(const T* p) {
  if constexpr (sizeof(T) == 1) return std::bit_cast<T>(__ldg(reinterpret_cast<const uint8_t*>(p)));
  else if constexpr (sizeof(T) == 2) return std::bit_cast<T>(__ldg(reinterpret_cast<const uint16_t*>(p)));
  else if constexpr (sizeof(T) == 4) return std::bit_cast<T>(__ldg(reinterpret_cast<const uint32_t*>(p)));
  else return std::bit_cast<T>(__ldg(reinterpret_cast<const uint64_t*>(p)));
}

// The same of what a launch reads once: the first cache need not keep it, and the second may fetch what lies beside it.
template <class T>
T read_once(const T* p) {
#define FLAME_READ_ONCE(type, letter) \
  asm("ld.global.nc.L1::no_allocate.L2::256B." type " %0, [%1];" : "=" letter(bits) : "l"(p))
  if constexpr (sizeof(T) == 2) {
    uint16_t bits;
    FLAME_READ_ONCE("u16", "h");
    return std::bit_cast<T>(bits);
  } else if constexpr (sizeof(T) == 4) {
    uint32_t bits;
    FLAME_READ_ONCE("u32", "r");
    return std::bit_cast<T>(bits);
  } else if constexpr (sizeof(T) == 8) {
    uint64_t bits;
    FLAME_READ_ONCE("u64", "l");
    return std::bit_cast<T>(bits);
  } else {
    return read(p);
  }
#undef FLAME_READ_ONCE
}

// Calls fn(axis, coordinate) for a row-major number below the product of the sizes, from the last axis to the first.
template <class I, class F>
void each_axis(I number, int64_t rank, const int64_t* sizes, F fn) {
  for (int i = static_cast<int>(rank) - 1; i > 0; --i) {
    const I n = static_cast<I>(sizes[i]), q = number / n;
    fn(i, static_cast<int64_t>(number - q * n));
    number = q;
  }
  if (rank > 0) fn(0, static_cast<int64_t>(number));
}

// A divisor of numbers from 0, 64-bit ones or those below 2^31; made by the host (ops/split_internal.h).
struct Split {
  int64_t n;
  uint32_t multiplier, shift;  // of 32 bits; multiplier of 0: n is 1
};
inline int32_t quotient(int32_t a, const Split& s) {
  const uint32_t u = static_cast<uint32_t>(a);
  return static_cast<int32_t>(s.multiplier ? __umulhi(u, s.multiplier) >> s.shift : u);
}
inline int64_t quotient(int64_t a, const Split& s) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) / static_cast<uint64_t>(s.n));
}

inline int64_t global_thread() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }

}  // namespace flame
