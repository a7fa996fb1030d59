// Internal: elementary functions on Highway vectors, once per instruction set, for float and double.
// float32 functions other than exp and log work in float64 lanes and round once, so they are right to about half an ulp.
#if defined(FLAME_FUSE_SIMD_MATH_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLAME_FUSE_SIMD_MATH_H_
#undef FLAME_FUSE_SIMD_MATH_H_
#else
#define FLAME_FUSE_SIMD_MATH_H_
#endif

#include <cmath>
#include <limits>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
using F64 = hn::Repartition<double, D>;
template <class D>
constexpr bool is_f32 = sizeof(hn::TFromD<D>) == 4;

// c0 + c1 x + c2 x^2 + ...
template <class D, class V>
HWY_INLINE V Poly(D d, V /*x*/, double c) {
  return hn::Set(d, static_cast<hn::TFromD<D>>(c));
}
template <class D, class V, class... C>
HWY_INLINE V Poly(D d, V x, double c, C... rest) {
  return hn::MulAdd(x, Poly(d, x, rest...), hn::Set(d, static_cast<hn::TFromD<D>>(c)));
}
template <class D>
HWY_INLINE hn::Vec<D> Const(D d, double c) {
  return hn::Set(d, static_cast<hn::TFromD<D>>(c));
}

// fn of float32 lanes in two halves of float64 lanes.
template <class D, class F, class... V>
HWY_INLINE hn::Vec<D> ViaDouble(D d, F fn, V... v) {
#if HWY_TARGET == HWY_SCALAR
  const hn::Rebind<double, D> wide;
  // Not DemoteTo, which turns infinity into the largest number here.
  return hn::Set(d, static_cast<float>(hn::GetLane(fn(wide, hn::PromoteTo(wide, v)...))));
#else
  const hn::Half<D> half;
  const hn::Rebind<double, hn::Half<D>> wide;
  const auto lower = fn(wide, hn::PromoteTo(wide, hn::LowerHalf(half, v))...);
  const auto upper = fn(wide, hn::PromoteTo(wide, hn::UpperHalf(half, v))...);
  return hn::Combine(d, hn::DemoteTo(half, upper), hn::DemoteTo(half, lower));
#endif
}

// fn of each lane, for what has no vector form.
template <class D, class F, class V, class... W>
HWY_INLINE V Lanewise(D d, F fn, V a, W... rest) {
  using T = hn::TFromD<D>;
  constexpr size_t n = hn::MaxLanes(D());
  HWY_ALIGN T x[1 + sizeof...(W)][n];
  hn::Store(a, d, x[0]);
  [[maybe_unused]] size_t k = 1;
  (hn::Store(rest, d, x[k++]), ...);
  for (size_t i = 0; i < hn::Lanes(d); ++i) {
    if constexpr (sizeof...(W) == 0) x[0][i] = fn(x[0][i]);
    else x[0][i] = fn(x[0][i], x[1][i]);
  }
  return hn::Load(d, x[0]);
}

template <class T>
struct FloatTraits;
template <>
struct FloatTraits<float> {
  static constexpr int mantissa = 23;
  static constexpr uint32_t one = 0x3f800000u, sqrt_half = 0x3f3504f3u;
  static constexpr double magic = 0x1.8p23, to_integer = 0x1p23, bias = 127, min_normal = 0x1p-126,
                          subnormal_scale = 0x1p24;
  static constexpr double exp_low = -105, exp_high = 90, ln2_hi = 6.9314575195e-01, ln2_lo = 1.4286067653e-06;
};
template <>
struct FloatTraits<double> {
  static constexpr int mantissa = 52;
  static constexpr uint64_t one = 0x3ff0000000000000u, sqrt_half = 0x3fe6a09e667f3bcdu;
  static constexpr double magic = 0x1.8p52, to_integer = 0x1p52, bias = 1023, min_normal = 0x1p-1022,
                          subnormal_scale = 0x1p53;
  static constexpr double exp_low = -747, exp_high = 711, ln2_hi = 6.93147180369123816490e-01,
                          ln2_lo = 1.90821492927058770002e-10;
};
template <class D>
using Traits = FloatTraits<hn::TFromD<D>>;

// The nearest integer, for |x| < 2^(mantissa - 2).
template <class D, class V>
HWY_INLINE V ToInteger(D d, V x) {
  const V magic = Const(d, Traits<D>::magic);
  return hn::Sub(hn::Add(x, magic), magic);
}
// 2^n for an integral n of the normal range: the sum's low bits are the biased exponent.
template <class D, class V>
HWY_INLINE V PowerOfTwo(D d, V n) {
  const hn::RebindToUnsigned<D> du;
  return hn::BitCast(
      d, hn::ShiftLeft<Traits<D>::mantissa>(hn::BitCast(du, hn::Add(n, Const(d, Traits<D>::magic + Traits<D>::bias)))));
}
// x 2^n in two steps, so that results may be subnormal or infinite; AVX-512 has an instruction for it.
template <class D, class V>
HWY_INLINE V Scale(D d, V x, V n) {
#if HWY_TARGET <= HWY_AVX3
  if constexpr (hn::MaxLanes(D()) * sizeof(hn::TFromD<D>) == 64) {
    if constexpr (is_f32<D>) return V{_mm512_scalef_ps(x.raw, n.raw)};
    else return V{_mm512_scalef_pd(x.raw, n.raw)};
  }
#endif
  const V half = ToInteger(d, hn::Mul(n, Const(d, 0.5)));
  return hn::Mul(hn::Mul(x, PowerOfTwo(d, half)), PowerOfTwo(d, hn::Sub(n, half)));
}

// e^x = (1 + m) 2^n with |m| < 0.42; x within [exp_low, exp_high], plus a small correction `tail`.
template <class V>
struct ExpParts {
  V m, n;
};
template <class D, class V>
HWY_INLINE ExpParts<V> SplitExp(D d, V x, V tail) {
  const V n = ToInteger(d, hn::Mul(x, Const(d, 1.44269504088896340736)));
  V r = hn::NegMulAdd(n, Const(d, Traits<D>::ln2_hi), x);
  r = hn::Sub(r, hn::MulSub(n, Const(d, Traits<D>::ln2_lo), tail));
  V p;
  if constexpr (is_f32<D>) p = Poly(d, r, 0.5, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040);
  else
    p = Poly(d, r, 0.5, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800,
             1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800);
  return {hn::MulAdd(hn::Mul(r, r), p, r), n};
}
template <class D, class V>
HWY_INLINE V ClampExponent(D d, V x) {
  return hn::Min(hn::Max(x, Const(d, Traits<D>::exp_low)), Const(d, Traits<D>::exp_high));
}
template <class D, class V>
HWY_INLINE V KeepNaN(V x, V y, D) {
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

template <class D, class V>
HWY_INLINE V Exp(D d, V x) {
  const auto e = SplitExp(d, ClampExponent(d, x), hn::Zero(d));
  return KeepNaN(x, Scale(d, hn::Add(e.m, Const(d, 1)), e.n), d);
}

template <class D, class V>
HWY_INLINE V Expm1(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Expm1(dd, v); }, x);
  } else {
    const auto e = SplitExp(d, hn::Min(hn::Max(x, Const(d, -50)), Const(d, 711)), hn::Zero(d));
    const V rest = hn::Sub(Const(d, 1), PowerOfTwo(d, hn::Max(hn::Neg(e.n), Const(d, -1022))));
    const V y = Scale(d, hn::Add(e.m, rest), e.n);
    return hn::IfThenElse(hn::Lt(hn::Abs(x), Const(d, 0x1p-54)), x, KeepNaN(x, y, d));
  }
}

// x = (1 + f) 2^k with 1 + f in [sqrt(1/2), sqrt(2)), for finite x > 0.
template <class V>
struct LogParts {
  V f, k;
};
template <class D, class V>
HWY_INLINE LogParts<V> SplitLog(D d, V x) {
  using Tr = Traits<D>;
  const hn::RebindToUnsigned<D> du;
  const auto tiny = hn::Lt(x, Const(d, Tr::min_normal));
  const V scaled = hn::IfThenElse(tiny, hn::Mul(x, Const(d, Tr::subnormal_scale)), x);
  const V adjust = hn::IfThenElseZero(tiny, Const(d, Tr::mantissa + 1));
  const auto bits = hn::BitCast(du, scaled);
  // Biased by one more than usual, so that the shift is of a positive number.
  const auto shifted =
      hn::ShiftRight<Tr::mantissa>(hn::Add(hn::Sub(bits, hn::Set(du, Tr::sqrt_half)), hn::Set(du, Tr::one)));
  const V k_biased =
      hn::Sub(hn::BitCast(d, hn::Or(shifted, hn::BitCast(du, Const(d, Tr::to_integer)))), Const(d, Tr::to_integer));
  const auto m =
      hn::Sub(bits, hn::ShiftLeft<Tr::mantissa>(hn::Sub(shifted, hn::ShiftRight<Tr::mantissa>(hn::Set(du, Tr::one)))));
  return {hn::Sub(hn::BitCast(d, m), Const(d, 1)), hn::Sub(hn::Sub(k_biased, Const(d, Tr::bias)), adjust)};
}
// ln(1 + f) + k ln 2 + c, after FreeBSD's e_log.c; c is a small correction.
template <class D, class V>
HWY_INLINE V JoinLog(D d, LogParts<V> p, V c) {
  const V s = hn::Div(p.f, hn::Add(p.f, Const(d, 2)));
  const V z = hn::Mul(s, s);
  V r;
  if constexpr (is_f32<D>) r = hn::Mul(z, Poly(d, z, 0.66666662693, 0.40000972152, 0.28498786688, 0.24279078841));
  else
    r = hn::Mul(z, Poly(d, z, 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
                        2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
                        1.479819860511658591e-01));
  const V half_square = hn::Mul(hn::Mul(p.f, p.f), Const(d, 0.5));
  const V low = hn::MulAdd(s, hn::Add(half_square, r), hn::MulAdd(p.k, Const(d, Traits<D>::ln2_lo), c));
  return hn::MulAdd(p.k, Const(d, Traits<D>::ln2_hi), hn::Sub(p.f, hn::Sub(half_square, low)));
}
// The logarithm's special values; y holds it elsewhere.
template <class D, class V>
HWY_INLINE V LogEdges(D d, V x, V y) {
  const V inf = Const(d, std::numeric_limits<double>::infinity()), zero = hn::Zero(d);
  y = hn::IfThenElse(hn::Eq(x, zero), hn::Neg(inf), y);
  y = hn::IfThenElse(hn::Eq(x, inf), inf, y);
  return hn::IfThenElse(hn::Ge(x, zero), y, Const(d, std::numeric_limits<double>::quiet_NaN()));
}

template <class D, class V>
HWY_INLINE V Log(D d, V x) {
  return LogEdges(d, x, JoinLog(d, SplitLog(d, x), hn::Zero(d)));
}
template <class D, class V>
HWY_INLINE V Log1p(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Log1p(dd, v); }, x);
  } else {
    const V one = Const(d, 1), u = hn::Add(x, one);
    const V lost = hn::IfThenElse(hn::Lt(x, one), hn::Sub(x, hn::Sub(u, one)), hn::Sub(one, hn::Sub(u, x)));
    const V y = LogEdges(d, u, JoinLog(d, SplitLog(d, u), hn::Div(lost, u)));
    return hn::IfThenElse(hn::Lt(hn::Abs(x), Const(d, 0x1p-54)), x, y);
  }
}
template <class D, class V>
HWY_INLINE V Log2(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Log2(dd, v); }, x);
  } else {
    const auto p = SplitLog(d, x);
    const V ln = JoinLog(d, LogParts<V>{p.f, hn::Zero(d)}, hn::Zero(d));
    return LogEdges(d, x, hn::MulAdd(ln, Const(d, 1.44269504088896340736), p.k));
  }
}
template <class D, class V>
HWY_INLINE V Log10(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Log10(dd, v); }, x);
  } else {
    const auto p = SplitLog(d, x);
    const V ln = JoinLog(d, LogParts<V>{p.f, hn::Zero(d)}, hn::Zero(d));
    const V low = hn::MulAdd(p.k, Const(d, 3.69423907715893078616e-13), hn::Mul(ln, Const(d, 0.43429448190325182765)));
    return LogEdges(d, x, hn::MulAdd(p.k, Const(d, 3.01029995663611771306e-01), low));
  }
}

// NaN wins, whichever side it is on.
template <class D, class V>
HWY_INLINE V Maximum(D, V a, V b) {
  return hn::IfThenElse(hn::Or(hn::IsNaN(a), hn::IsNaN(b)), hn::Add(a, b), hn::Max(a, b));
}
template <class D, class V>
HWY_INLINE V Minimum(D, V a, V b) {
  return hn::IfThenElse(hn::Or(hn::IsNaN(a), hn::IsNaN(b)), hn::Add(a, b), hn::Min(a, b));
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();
#endif
