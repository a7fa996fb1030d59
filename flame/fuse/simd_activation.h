// Internal: activation functions and sums of logarithms on Highway vectors, compiled once per instruction set.
// float32 goes through float64 lanes where a float32 step would lose digits.
#if defined(FLAME_FUSE_SIMD_ACTIVATION_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLAME_FUSE_SIMD_ACTIVATION_H_
#undef FLAME_FUSE_SIMD_ACTIVATION_H_
#else
#define FLAME_FUSE_SIMD_ACTIVATION_H_
#endif

#include "flame/fuse/simd_special.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {

template <class D, class V>
HWY_INLINE V Exp2(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Exp2(dd, v); }, x);
  } else {
    const V v = hn::Min(hn::Max(x, Const(d, -1080)), Const(d, 1030)), n = ToInteger(d, v);
    const auto e = SplitExp(d, hn::Mul(hn::Sub(v, n), Const(d, 0.69314718055994530942)), hn::Zero(d));
    return KeepNaN(x, Scale(d, hn::Add(e.m, Const(d, 1)), hn::Add(e.n, n)), d);
  }
}

template <bool short_form, class D, class V>
HWY_INLINE V ErfcWide(D d, V x) {
  const V ax = hn::Min(hn::Abs(x), Const(d, 28));
  const V tail = ErfcPositive<short_form>(d, ax, Gauss(d, ax, 1));
  const V far = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Sub(Const(d, 2), tail), tail);
  return KeepNaN(x, hn::IfThenElse(hn::Lt(ax, Const(d, 0.25)), hn::Sub(Const(d, 1), ErfNear(d, x)), far), d);
}
template <class D, class V>
HWY_INLINE V Erfc(D d, V x) {
  if constexpr (is_f32<D>)
    return ViaDouble(
        d, [](auto dd, auto v) { return ErfcWide<true>(dd, v); }, x);
  else return ErfcWide<false>(d, x);
}

// ln(x / (1 - x)). From 1/4 on as ln(1 + z) with the exact 2x - 1 in z, since the logarithm goes through 0 at 1/2.
template <class D, class V>
HWY_INLINE V Logit(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Logit(dd, v); }, x);
  } else {
    const V one = Const(d, 1), rest = hn::Sub(one, x), z = hn::Div(hn::MulSub(x, Const(d, 2), one), rest);
    const auto small = hn::Lt(x, Const(d, 0.25));
    const V u = hn::IfThenElse(small, hn::Div(x, rest), hn::Add(z, one));
    const V lost = hn::IfThenElse(hn::Lt(z, one), hn::Sub(z, hn::Sub(u, one)), hn::Sub(one, hn::Sub(u, z)));
    const V correction = hn::IfThenElse(small, hn::Zero(d), hn::Div(lost, u));
    return LogEdges(d, u, JoinLog(d, SplitLog(d, u), correction));
  }
}

// sin(pi x) / (pi x); the angle is reduced before it is multiplied, so whole numbers give 0.
template <class D, class V>
HWY_INLINE V Sinc(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Sinc(dd, v); }, x);
  } else {
    const V pi = Const(d, 3.14159265358979323846), n = hn::Round(x), half = hn::Mul(n, Const(d, 0.5));
    const V s = Sin(d, hn::Mul(hn::Sub(x, n), pi));
    const V turned = hn::IfThenElse(hn::Ne(hn::Round(half), half), hn::Neg(s), s);
    return hn::IfThenElse(hn::Eq(x, hn::Zero(d)), Const(d, 1), hn::Div(turned, hn::Mul(x, pi)));
  }
}

// a log, which is 0 for a = 0 unless b is NaN.
template <class D, class V>
HWY_INLINE V TimesLog(D d, V a, V b, V log) {
  const auto nothing = hn::AndNot(hn::IsNaN(b), hn::Eq(a, hn::Zero(d)));
  return hn::IfThenElse(nothing, hn::Zero(d), hn::Mul(a, log));
}

// max(a, b) + ln(1 + e^-|a - b|), and the same to base 2. Equal inputs may be infinite, so their difference is not used.
template <class D, class V>
HWY_INLINE V LogAddExp(D d, V a, V b) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v, auto w) { return LogAddExp(dd, v, w); }, a, b);
  } else {
    const V rest = Log1p(d, Exp(d, hn::Neg(hn::Abs(hn::Sub(a, b)))));
    return hn::Add(hn::Max(a, b), hn::IfThenElse(hn::Eq(a, b), Const(d, 0.69314718055994530942), rest));
  }
}
template <class D, class V>
HWY_INLINE V LogAddExp2(D d, V a, V b) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v, auto w) { return LogAddExp2(dd, v, w); }, a, b);
  } else {
    const V rest = Log1p(d, Exp2(d, hn::Neg(hn::Abs(hn::Sub(a, b)))));
    const V bits = hn::Mul(rest, Const(d, 1.44269504088896340736));
    return hn::Add(hn::Max(a, b), hn::IfThenElse(hn::Eq(a, b), Const(d, 1), bits));
  }
}

// scale x for x > 0, else negative_scale (e^(x / width) - 1). NaN stays.
template <class D, class V>
HWY_INLINE V ExponentialUnit(D d, V x, V scale, V negative_scale, V width) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto... v) { return ExponentialUnit(dd, v...); }, x, scale, negative_scale, width);
  } else {
    const V negative = hn::Mul(negative_scale, Expm1(d, hn::Div(x, width)));
    return hn::IfThenElse(hn::Gt(x, hn::Zero(d)), hn::Mul(scale, x), negative);
  }
}
template <class D, class V>
HWY_INLINE V Selu(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Selu(dd, v); }, x);
  } else {
    const V one = Const(d, 1);
    return ExponentialUnit(d, x, Const(d, 1.05070098735548049342), Const(d, 1.75809934084737685994), one);
  }
}

// x / (1 + e^-2u) with u = sqrt(2 / pi) (x + 0.044715 x^3).
template <class D, class V>
HWY_INLINE V GeluTanh(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return GeluTanh(dd, v); }, x);
  } else {
    constexpr double c = 1.59576912160573071176;
    const V slope = hn::MulAdd(hn::Mul(x, x), Const(d, c * 0.044715), Const(d, c));
    return hn::Mul(x, Sigmoid(d, hn::Mul(x, slope)));
  }
}

// x tanh(ln(1 + e)) = x w / (w + 2) with e = e^x and w = e (e + 2); from 20 on it is x.
template <class D, class V>
HWY_INLINE V Mish(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Mish(dd, v); }, x);
  } else {
    const V two = Const(d, 2), e = Exp(d, hn::Min(x, Const(d, 20))), w = hn::Mul(e, hn::Add(e, two));
    return hn::Mul(x, hn::Div(w, hn::Add(w, two)));
  }
}

template <class D, class V>
HWY_INLINE V LogSigmoid(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return LogSigmoid(dd, v); }, x);
  } else {
    const V negative = hn::IfThenElseZero(hn::Lt(x, hn::Zero(d)), x);
    return KeepNaN(x, hn::Sub(negative, Log1p(d, Exp(d, hn::Neg(hn::Abs(x))))), d);
  }
}

template <class D, class V>
HWY_INLINE V Tanhshrink(D d, V x) {
  if constexpr (is_f32<D>)
    return ViaDouble(
        d, [](auto dd, auto v) { return hn::Sub(v, Tanh(dd, v)); }, x);
  else return hn::Sub(x, Tanh(d, x));
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();
#endif
