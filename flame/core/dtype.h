// Element types: their names, sizes, promotion order and the two 16-bit float formats.
// Promotion follows PyTorch: within a category the wider type wins, bool < integer < floating point.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace flame {

enum class DType : uint8_t { boolean, u8, i8, i32, i64, f16, bf16, f32, f64 };
inline constexpr int num_dtypes = 9;
inline constexpr DType all_dtypes[num_dtypes] = {DType::boolean, DType::u8,   DType::i8,  DType::i32, DType::i64,
                                                 DType::f16,     DType::bf16, DType::f32, DType::f64};

constexpr size_t size_of(DType t) {
  constexpr size_t sizes[num_dtypes] = {1, 1, 1, 4, 8, 2, 2, 4, 8};
  return sizes[static_cast<int>(t)];
}
constexpr std::string_view name_of(DType t) {
  constexpr std::string_view names[num_dtypes] = {"bool",    "uint8",    "int8",    "int32",  "int64",
                                                  "float16", "bfloat16", "float32", "float64"};
  return names[static_cast<int>(t)];
}
constexpr bool is_float(DType t) { return t >= DType::f16; }
constexpr bool is_integer(DType t) { return t >= DType::u8 && t <= DType::i64; }

// The dtype of `a op b` for two tensors; float16 with bfloat16 gives float32, and uint8 with int8 gives int32, the
// narrowest here that holds both (PyTorch's int16 is not a dtype of FLAME).
constexpr DType promote(DType a, DType b) {
  if ((a == DType::f16 && b == DType::bf16) || (a == DType::bf16 && b == DType::f16)) return DType::f32;
  if ((a == DType::u8 && b == DType::i8) || (a == DType::i8 && b == DType::u8)) return DType::i32;
  return a > b ? a : b;
}

// bfloat16: the upper half of a float32, rounded to nearest even.
struct bfloat16 {
  uint16_t bits = 0;
  bfloat16() = default;
  explicit bfloat16(float f) {
    uint32_t u = std::bit_cast<uint32_t>(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) bits = static_cast<uint16_t>((u >> 16) | 0x40u);  // a quiet NaN
    else bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  bool operator==(const bfloat16&) const = default;
};

// IEEE 754 binary16, rounded to nearest even; subnormals, infinities and NaN included.
struct float16 {
  uint16_t bits = 0;
  float16() = default;
  explicit float16(float f) {
    const uint32_t u = std::bit_cast<uint32_t>(f);
    const uint32_t sign = (u >> 16) & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) bits = static_cast<uint16_t>(sign | 0x7e00u);
    else if (mag >= 0x477ff000u) bits = static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above round to infinity
    else if (mag < 0x38800000u) {  // below 2^-14: a subnormal, by letting the float adder round
      const float shifted = std::bit_cast<float>(mag) + 0.5f;
      bits = static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
    } else {
      bits = static_cast<uint16_t>(sign | ((mag - 0x38000000u + 0xfffu + ((mag >> 13) & 1u)) >> 13));
    }
  }
  explicit operator float() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, mag = bits & 0x7fffu;
    if (mag >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((mag & 0x3ffu) << 13));
    if (mag < 0x400u) {
      const float v = static_cast<float>(mag) * 0x1p-24f;
      return sign ? -v : v;
    }
    return std::bit_cast<float>(sign | ((mag << 13) + 0x38000000u));
  }
  bool operator==(const float16&) const = default;
};

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, bool>) return DType::boolean;
  else if constexpr (std::is_same_v<T, uint8_t>) return DType::u8;
  else if constexpr (std::is_same_v<T, int8_t>) return DType::i8;
  else if constexpr (std::is_same_v<T, int32_t>) return DType::i32;
  else if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, long long>) return DType::i64;
  else if constexpr (std::is_same_v<T, float16>) return DType::f16;
  else if constexpr (std::is_same_v<T, bfloat16>) return DType::bf16;
  else if constexpr (std::is_same_v<T, float>) return DType::f32;
  else {
    static_assert(std::is_same_v<T, double>, "no FLAME dtype for this C++ type");
    return DType::f64;
  }
}

// Calls fn(T{}) with the C++ type of `t`; bool runs as uint8_t-sized `bool`.
template <class F>
decltype(auto) visit_dtype(DType t, F&& fn) {
  switch (t) {
    case DType::boolean: return fn(bool{});
    case DType::u8: return fn(uint8_t{});
    case DType::i8: return fn(int8_t{});
    case DType::i32: return fn(int32_t{});
    case DType::i64: return fn(int64_t{});
    case DType::f16: return fn(float16{});
    case DType::bf16: return fn(bfloat16{});
    case DType::f32: return fn(float{});
    case DType::f64: break;
  }
  return fn(double{});
}

// A host number given to an op: remembers whether it was written as bool, integer or floating point.
struct Scalar {
  enum class Kind : uint8_t { boolean, integer, floating } kind;
  double value;      // exact for floating point
  int64_t integral;  // exact for bool and integer
  template <class T>
    requires std::is_arithmetic_v<T>
  Scalar(T v)
      : kind(std::is_same_v<T, bool> ? Kind::boolean
             : std::is_integral_v<T> ? Kind::integer
                                     : Kind::floating),
        value(static_cast<double>(v)),
        integral(std::is_integral_v<T> ? static_cast<int64_t>(v) : 0) {}
};

// The dtype of `tensor op scalar`: the tensor's own, unless the scalar is of a higher category.
constexpr DType promote(DType t, Scalar::Kind k) {
  if (k == Scalar::Kind::floating && !is_float(t)) return DType::f32;
  if (k == Scalar::Kind::integer && t == DType::boolean) return DType::i64;
  return t;
}

}  // namespace flame
