// Row reductions of floats and conversions of the 16-bit dtypes, per instruction set.
// A sum runs in 32 lanes over blocks of 1024, joined pairwise: the order depends on n alone, not on the vector's width.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/fuse/kernels_reduce.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include <algorithm>
#include <cstring>
#include <limits>

#include "flame/fuse/kernels_internal.h"
#include "flame/fuse/simd_math.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {

struct Sum {
  static constexpr double identity = 0;
  template <class D, class V>
  static HWY_INLINE V join(D, V a, V b) {
    return hn::Add(a, b);
  }
};
struct Product {
  static constexpr double identity = 1;
  template <class D, class V>
  static HWY_INLINE V join(D, V a, V b) {
    return hn::Mul(a, b);
  }
};
struct Greatest {
  static constexpr double identity = -std::numeric_limits<double>::infinity();
  template <class D, class V>
  static HWY_INLINE V join(D d, V a, V b) {
    return Maximum(d, a, b);
  }
  // Of a number and what came before; anything if x is NaN.
  template <class V>
  static HWY_INLINE V pick(V x, V before) {
    return hn::Max(x, before);
  }
};
struct Least {
  static constexpr double identity = std::numeric_limits<double>::infinity();
  template <class D, class V>
  static HWY_INLINE V join(D d, V a, V b) {
    return Minimum(d, a, b);
  }
  template <class V>
  static HWY_INLINE V pick(V x, V before) {
    return hn::Min(x, before);
  }
};

constexpr size_t reduce_lanes = 32, reduce_block = 1024;

// Running values of one vector. Extremes keep a NaN beside the value, which shortens what each step waits for.
template <class R, class D>
struct Running {
  using V = hn::Vec<D>;
  V value;
  HWY_INLINE void start(D d) { value = Const(d, R::identity); }
  HWY_INLINE void take(D d, V x) { value = R::join(d, value, x); }
  HWY_INLINE V result(D) const { return value; }
};
template <class R, class D>
struct RunningExtreme {
  using V = hn::Vec<D>;
  V value, nan;
  HWY_INLINE void start(D d) {
    value = Const(d, R::identity);
    nan = hn::Zero(d);
  }
  HWY_INLINE void take(D, V x) {
    value = R::pick(x, value);
    nan = hn::IfThenElse(hn::IsNaN(x), x, nan);
  }
  HWY_INLINE V result(D) const { return hn::IfThenElse(hn::IsNaN(nan), nan, value); }
};
template <class D>
struct Running<Greatest, D> : RunningExtreme<Greatest, D> {};
template <class D>
struct Running<Least, D> : RunningExtreme<Least, D> {};

// The lanes joined by halves.
template <class R, class D>
HWY_INLINE hn::TFromD<D> join_lanes(D, hn::Vec<D> v) {
#if HWY_TARGET != HWY_SCALAR  // which has no halves
  if constexpr (hn::MaxLanes(D()) > 1) {
    const hn::Half<D> half;
    return join_lanes<R>(half, R::join(half, hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
#endif
  return hn::GetLane(v);
}

// Up to 1024 elements: 32 running values, then a tree. A ragged end is padded with the identity.
template <class R, class T>
T reduce_one_block(const T* x, size_t n) {
  const hn::ScalableTag<T> d;
  constexpr size_t lanes = hn::MaxLanes(hn::ScalableTag<T>()), count = reduce_lanes / lanes;
  Running<R, hn::ScalableTag<T>> acc[count];
  for (auto& a : acc) a.start(d);
  size_t i = 0;
  for (; i + reduce_lanes <= n; i += reduce_lanes)
    for (size_t k = 0; k < count; ++k) acc[k].take(d, hn::LoadU(d, x + i + k * lanes));
  if (i < n) {
    HWY_ALIGN T buffer[reduce_lanes];
    for (T& v : buffer) v = static_cast<T>(R::identity);
    std::memcpy(buffer, x + i, (n - i) * sizeof(T));
    for (size_t k = 0; k < count; ++k) acc[k].take(d, hn::Load(d, buffer + k * lanes));
  }
  hn::Vec<hn::ScalableTag<T>> v[count];
  for (size_t k = 0; k < count; ++k) v[k] = acc[k].result(d);
  for (size_t w = count / 2; w > 0; w /= 2)
    for (size_t k = 0; k < w; ++k) v[k] = R::join(d, v[k], v[k + w]);
  return join_lanes<R>(d, v[0]);
}
template <class R, class T>
T reduce_pairwise(const T* x, size_t n) {
  if (n <= reduce_block) return reduce_one_block<R>(x, n);
  const size_t blocks = (n + reduce_block - 1) / reduce_block, left = blocks / 2 * reduce_block;
  const hn::CappedTag<T, 1> one;
  const T a = reduce_pairwise<R>(x, left), b = reduce_pairwise<R>(x + left, n - left);
  return hn::GetLane(R::join(one, hn::Set(one, a), hn::Set(one, b)));
}
template <class R, class T>
void reduce_row(const void* x, void* out, int64_t n) {
  *static_cast<T*>(out) = reduce_pairwise<R>(static_cast<const T*>(x), static_cast<size_t>(n));
}

ReduceFn float_reduce(Reduce r, DType t) {
  const bool wide = t == DType::f64;
  switch (r) {
    case Reduce::sum: return wide ? &reduce_row<Sum, double> : &reduce_row<Sum, float>;
    case Reduce::prod: return wide ? &reduce_row<Product, double> : &reduce_row<Product, float>;
    case Reduce::max: return wide ? &reduce_row<Greatest, double> : &reduce_row<Greatest, float>;
    case Reduce::min: return wide ? &reduce_row<Least, double> : &reduce_row<Least, float>;
    case Reduce::any:
    case Reduce::all: break;
  }
  return nullptr;
}

// bfloat16 by integer arithmetic; the compiler vectorises both loops.
HWY_INLINE uint32_t rounded_bf16(uint32_t u) {
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, quiet = (u >> 16) | 0x40u;
  return (u & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
}
void bf16_from_f32(const void* in, const void*, const void*, void* out, int64_t n) {
  const uint32_t* x = static_cast<const uint32_t*>(in);
  uint16_t* y = static_cast<uint16_t*>(out);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<uint16_t>(rounded_bf16(x[i]));
}
void f32_from_bf16(const void* in, const void*, const void*, void* out, int64_t n) {
  const uint16_t* x = static_cast<const uint16_t*>(in);
  uint32_t* y = static_cast<uint32_t*>(out);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<uint32_t>(x[i]) << 16;
}
void round_bf16(float* x, int64_t n) {
  uint32_t* u = reinterpret_cast<uint32_t*>(x);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) u[i] = rounded_bf16(u[i]) << 16;
}

// float16 by the hardware's conversion where there is one.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
void f16_from_f32(const void* in, const void*, const void*, void* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) static_cast<float16*>(out)[i] = float16(static_cast<const float*>(in)[i]);
}
void f32_from_f16(const void* in, const void*, const void*, void* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) static_cast<float*>(out)[i] = static_cast<float>(static_cast<const float16*>(in)[i]);
}
void round_f16(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(float16(x[i]));
}
#else
// Calls step(in, out) on whole vectors, and on a padded copy of what is left.
template <class In, class Out, class F>
HWY_INLINE void in_vectors(const In* in, Out* out, int64_t count, F step) {
  constexpr size_t lanes = hn::MaxLanes(hn::ScalableTag<float>());
  const size_t n = static_cast<size_t>(count);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) step(in + i, out + i);
  if (i == n) return;
  HWY_ALIGN In from[lanes] = {};
  HWY_ALIGN Out to[lanes];
  std::memcpy(from, in + i, (n - i) * sizeof(In));
  step(from, to);
  std::memcpy(out + i, to, (n - i) * sizeof(Out));
}
constexpr hn::ScalableTag<float> f32_tag;
constexpr hn::Rebind<hwy::float16_t, hn::ScalableTag<float>> f16_tag;
void f16_from_f32(const void* in, const void*, const void*, void* out, int64_t n) {
  in_vectors(
      static_cast<const float*>(in), static_cast<hwy::float16_t*>(out), n,
      [](const float* x, hwy::float16_t* y) { hn::StoreU(hn::DemoteTo(f16_tag, hn::LoadU(f32_tag, x)), f16_tag, y); });
}
void f32_from_f16(const void* in, const void*, const void*, void* out, int64_t n) {
  in_vectors(
      static_cast<const hwy::float16_t*>(in), static_cast<float*>(out), n,
      [](const hwy::float16_t* x, float* y) { hn::StoreU(hn::PromoteTo(f32_tag, hn::LoadU(f16_tag, x)), f32_tag, y); });
}
void round_f16(float* x, int64_t n) {
  in_vectors(x, x, n, [](const float* in, float* out) {
    hn::StoreU(hn::PromoteTo(f32_tag, hn::DemoteTo(f16_tag, hn::LoadU(f32_tag, in))), f32_tag, out);
  });
}
#endif

BlockFn simd_cast(DType from, DType to) {
  if (from == DType::f32) return to == DType::bf16 ? &bf16_from_f32 : to == DType::f16 ? &f16_from_f32 : nullptr;
  if (to == DType::f32) return from == DType::bf16 ? &f32_from_bf16 : from == DType::f16 ? &f32_from_f16 : nullptr;
  return nullptr;
}
void simd_round(DType t, float* x, int64_t n) { t == DType::bf16 ? round_bf16(x, n) : round_f16(x, n); }

void stream_block(const void* from, void* to, size_t bytes) {
  const hn::ScalableTag<uint8_t> d;
  constexpr size_t lanes = hn::MaxLanes(hn::ScalableTag<uint8_t>());
  const uint8_t* x = static_cast<const uint8_t*>(from);
  uint8_t* y = static_cast<uint8_t*>(to);
  const size_t head = std::min(bytes, (lanes - reinterpret_cast<uintptr_t>(to) % lanes) % lanes);
  std::memcpy(y, x, head);
  size_t i = head;
  for (; i + lanes <= bytes; i += lanes) hn::Stream(hn::LoadU(d, x + i), d, y + i);
  std::memcpy(y + i, x + i, bytes - i);
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame::kernels {
HWY_EXPORT(float_reduce);
HWY_EXPORT(simd_cast);
HWY_EXPORT(simd_round);
HWY_EXPORT(stream_block);
ReduceFn float_reduce(Reduce r, DType t) { return HWY_DYNAMIC_DISPATCH(float_reduce)(r, t); }
BlockFn simd_cast(DType from, DType to) { return HWY_DYNAMIC_DISPATCH(simd_cast)(from, to); }
void simd_round(DType t, float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(simd_round)(t, x, n); }
void stream_block(const void* from, void* to, size_t n) { HWY_DYNAMIC_DISPATCH(stream_block)(from, to, n); }
void stream_fence() { hwy::FlushStream(); }
}  // namespace flame::kernels
#endif
