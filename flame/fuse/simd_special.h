// Internal: trigonometric, error and activation functions and powers on Highway vectors, compiled once per instruction
// set. Where the vector form would lose accuracy (huge angles, float64 powers) single lanes go to the C library.
#if defined(FLAME_FUSE_SIMD_SPECIAL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLAME_FUSE_SIMD_SPECIAL_H_
#undef FLAME_FUSE_SIMD_SPECIAL_H_
#else
#define FLAME_FUSE_SIMD_SPECIAL_H_
#endif

#include "flame/fuse/simd_math.h"
#include "flame/fuse/simd_pieces.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {

// x = n pi/2 + hi + lo with |hi| <= pi/4, for |x| <= 2^20, after FreeBSD's e_rem_pio2.c: three parts of pi/2 with 33
// bits each, whose products with n are exact.
template <class V>
struct Angle {
  V n, hi, lo;
};
template <class D, class V>
HWY_INLINE Angle<V> ReduceAngle(D d, V x) {
  const V n = ToInteger(d, hn::Mul(x, Const(d, 6.36619772367581382433e-01)));
  const V a = hn::Sub(x, hn::Mul(n, Const(d, 1.57079632673412561417e+00)));
  const V p2 = hn::Mul(n, Const(d, 6.07710050630396597660e-11));
  const V b = hn::Sub(a, p2);
  const V lost2 = hn::Sub(hn::Sub(a, b), p2);
  const V p3 = hn::Mul(n, Const(d, 2.02226624871116645580e-21));
  const V c = hn::Sub(b, p3);
  const V lost3 = hn::Sub(hn::Sub(b, c), p3);
  const V tail = hn::Sub(hn::Add(lost2, lost3), hn::Mul(n, Const(d, 8.47842766036889956997e-32)));
  const V hi = hn::Add(c, tail);
  return {n, hi, hn::Add(hn::Sub(c, hi), tail)};
}
// k_sin.c and k_cos.c: sin(hi + lo) and cos(hi + lo).
template <class D, class V>
HWY_INLINE V SinKernel(D d, V x, V lo) {
  const V z = hn::Mul(x, x), v = hn::Mul(z, x);
  const V r = Poly(d, z, 8.33333333332248946124e-03, -1.98412698298579493134e-04, 2.75573137070700676789e-06,
                   -2.50507602534068634195e-08, 1.58969099521155010221e-10);
  const V inner = hn::MulSub(z, hn::MulSub(Const(d, 0.5), lo, hn::Mul(v, r)), lo);
  return hn::Sub(x, hn::NegMulAdd(v, Const(d, -1.66666666666666324348e-01), inner));
}
template <class D, class V>
HWY_INLINE V CosKernel(D d, V x, V lo) {
  const V z = hn::Mul(x, x), one = Const(d, 1);
  const V r = hn::Mul(z, Poly(d, z, 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05,
                              -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11));
  const V half = hn::Mul(z, Const(d, 0.5)), w = hn::Sub(one, half);
  return hn::Add(w, hn::Add(hn::Sub(hn::Sub(one, w), half), hn::MulSub(z, r, hn::Mul(x, lo))));
}
// sin(x + quarter_turns pi/2).
template <class D, class V, class F>
HWY_INLINE V SinShifted(D d, V x, double quarter_turns, F libm) {
  const auto small = hn::Le(hn::Abs(x), Const(d, 0x1p20));
  const Angle<V> a = ReduceAngle(d, hn::IfThenElseZero(small, x));
  // The quadrant's bits stand lowest in n + magic.
  const hn::RebindToUnsigned<D> du;
  const auto q = hn::BitCast(du, hn::Add(a.n, Const(d, Traits<D>::magic + quarter_turns)));
  const auto odd = hn::MaskFromVec(hn::BitCast(d, hn::Sub(hn::Zero(du), hn::And(q, hn::Set(du, 1)))));
  const auto flip = hn::BitCast(d, hn::ShiftLeft<62>(hn::And(q, hn::Set(du, 2))));
  const V y = hn::IfThenElse(odd, CosKernel(d, a.hi, a.lo), SinKernel(d, a.hi, a.lo));
  V out = hn::Xor(y, flip);
  if (!hn::AllTrue(d, small)) out = hn::IfThenElse(small, out, Lanewise(d, libm, x));
  return out;
}
template <class D, class V>
HWY_INLINE V Sin(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Sin(dd, v); }, x);
  } else {
    const V y = SinShifted(d, x, 0, [](double v) { return std::sin(v); });
    return hn::IfThenElse(hn::Eq(x, hn::Zero(d)), x, y);  // keeps -0
  }
}
template <class D, class V>
HWY_INLINE V Cos(D d, V x) {
  if constexpr (is_f32<D>)
    return ViaDouble(
        d, [](auto dd, auto v) { return Cos(dd, v); }, x);
  else return SinShifted(d, x, 1, [](double v) { return std::cos(v); });
}

template <class D, class V>
HWY_INLINE V Tanh(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Tanh(dd, v); }, x);
  } else {
    // expm1(-2|x|) for small |x|, where 1 - 2 / (e + 2) would cancel.
    const V ax = hn::Min(hn::Abs(x), Const(d, 22)), two = Const(d, 2), twice = hn::Mul(ax, two);
    const auto small = hn::Lt(ax, Const(d, 1));
    const V e = Expm1(d, hn::IfThenElse(small, hn::Neg(twice), twice));
    const V q = hn::Div(hn::IfThenElse(small, e, two), hn::Add(e, two));
    const V y = hn::IfThenElse(small, hn::Neg(q), hn::Sub(Const(d, 1), q));
    return KeepNaN(x, hn::CopySign(y, x), d);
  }
}

template <class D, class V>
HWY_INLINE V Sigmoid(D d, V x) {
  const V one = Const(d, 1);
  const V e = Exp(d, hn::Neg(hn::Abs(x)));  // no overflow, and subnormal results stay right
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one), hn::Add(one, e));
}
// 1 + e^-x in float64 lanes to 1e-10, which is enough before rounding to float32; infinite from x = -710 down. The
// polynomial is e^r by Chebyshev interpolation.
template <class D, class V>
HWY_INLINE V OnePlusExpForFloat(D d, V x) {
  const V v = hn::Min(hn::Max(x, Const(d, -710)), Const(d, 708));
  const V n = ToInteger(d, hn::Mul(v, Const(d, -1.44269504088896340736)));
  const V r = hn::MulSub(n, Const(d, -0.69314718055994530942), v);
  const V p = Poly(d, r, 0.99999999995952937, 0.99999999999550544, 0.50000001077938756, 0.16666666786380441,
                   0.041666218139710592, 0.0083332835187681053, 0.0013948590286863382, 0.00019907582591325133);
  return hn::MulAdd(p, PowerOfTwo(d, n), Const(d, 1));
}
template <class D, class V>
HWY_INLINE V Silu(D d, V x) {
  if constexpr (is_f32<D>)
    return ViaDouble(
        d, [](auto dd, auto v) { return hn::Div(v, OnePlusExpForFloat(dd, v)); }, x);
  else return hn::Mul(x, Sigmoid(d, x));
}
template <class D, class V>
HWY_INLINE V Softplus(D d, V x) {
  if constexpr (is_f32<D>) {
    return ViaDouble(
        d, [](auto dd, auto v) { return Softplus(dd, v); }, x);
  } else {
    const V positive = hn::IfThenElseZero(hn::Gt(x, hn::Zero(d)), x);
    return KeepNaN(x, hn::Add(positive, Log1p(d, Exp(d, hn::Neg(hn::Abs(x))))), d);
  }
}

// erfc(t) for t in [0, 28], given e^(-t^2). (1 + 2t) e^(t^2) erfc(t) is a polynomial in (t - k) / (t + k), k = 3.75
// (Shepherd and Laframboise 1981); coefficients by Chebyshev interpolation in 60 digits. `short_form`: to 1e-12.
template <bool short_form, class D, class V>
HWY_INLINE V ErfcPositive(D d, V t, V gauss) {
  const V u = hn::Div(hn::Sub(t, Const(d, 3.75)), hn::Add(t, Const(d, 3.75)));
  V p;
  if constexpr (short_form)
    p = Poly(d, u, 1.23751263080813938, -0.1402405985881956139, 0.003585419320941043253, 0.08227673860880447421,
             -0.1088040116595467865, 0.09230431965625690731, -0.05869273583334757593, 0.02836228550792987929,
             -0.009749243355606894951, 0.001755605563431787705, 0.0002995965088889839303, -0.0002901358259660592152,
             0.00004428013518445527434, 0.00002240378086339088209, -6.352404651074642826e-6, -1.035155593770874388e-6);
  else
    p = Poly(d, u, 1.23751263083782758, -0.1402405985855469624, 0.003585415485464429369, 0.08227673849014520768,
             -0.1088039301417488572, 0.09230432116037747776, -0.05869339858963677406, 0.02836227741895640429,
             -0.009746579558029275534, 0.001755625852895295357, 0.0002937136655913448199, -0.000290154080540841711,
             0.00005164909889268240345, 0.00002238423915508222982, -0.00001144414623770052337, -9.735598967367749341e-7,
             1.751637648849062143e-6, -5.72182306032240875e-8, -2.586685071615588544e-7, 2.326350870885912373e-8,
             3.867533424222235682e-8, -3.744210080962018644e-9, -5.173990214011309627e-9, 3.111433380979925199e-10,
             4.251471444796389776e-10);
  return hn::Div(hn::Mul(p, gauss), hn::MulAdd(t, Const(d, 2), Const(d, 1)));
}
// e^(-c x^2) for x >= 0 and c = 1 or 1/2; the square is split, since its rounding error would be magnified.
template <class D, class V>
HWY_INLINE V Gauss(D d, V x, double c) {
  const hn::RebindToUnsigned<D> du;
  const V head = hn::BitCast(d, hn::And(hn::BitCast(du, x), hn::Set(du, 0xffffffff00000000u)));
  const V big = hn::Mul(hn::Mul(head, head), Const(d, -c));
  const V small = hn::Mul(hn::Mul(hn::Sub(x, head), hn::Add(x, head)), Const(d, -c));
  const auto e = SplitExp(d, hn::Max(big, Const(d, Traits<D>::exp_low)), small);
  return Scale(d, hn::Add(e.m, Const(d, 1)), e.n);
}
// s_erf.c for |x| < 0.84375.
template <class D, class V>
HWY_INLINE V ErfNear(D d, V x) {
  const V z = hn::Mul(x, x);
  const V r = Poly(d, z, 1.28379167095512558561e-01, -3.25042107247001499370e-01, -2.84817495755985104766e-02,
                   -5.77027029648944159157e-03, -2.37630166566501626084e-05);
  const V s = Poly(d, z, 1.0, 3.97917223959155352819e-01, 6.50222499887672944485e-02, 5.08130628187576562776e-03,
                   1.32494738004321644526e-04, -3.96022827877536812320e-06);
  return hn::MulAdd(x, hn::Div(r, s), x);
}
template <bool short_form, class D, class V>
HWY_INLINE V ErfWide(D d, V x) {
  const V ax = hn::Min(hn::Abs(x), Const(d, 28)), near = ErfNear(d, x);
  const V far = hn::Sub(Const(d, 1), ErfcPositive<short_form>(d, ax, Gauss(d, ax, 1)));
  return KeepNaN(x, hn::IfThenElse(hn::Lt(ax, Const(d, 0.84375)), near, hn::CopySign(far, x)), d);
}
// x Phi(x), with the tail from erfc so that it keeps its relative accuracy.
template <bool short_form, class D, class V>
HWY_INLINE V GeluWide(D d, V x) {
  const V ax = hn::Min(hn::Abs(x), Const(d, 39));
  const V root_half = Const(d, 0.70710678118654752440), half = Const(d, 0.5);
  const V tail = hn::Mul(ErfcPositive<short_form>(d, hn::Mul(ax, root_half), Gauss(d, ax, 0.5)), half);
  V phi = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(Const(d, 1), tail));
  if constexpr (!short_form)
    phi = hn::IfThenElse(hn::Lt(ax, Const(d, 1)), hn::MulAdd(ErfNear(d, hn::Mul(x, root_half)), half, half), phi);
  return KeepNaN(x, hn::Mul(x, phi), d);
}
template <class D, class V>
HWY_INLINE V Erf(D d, V x) {
  if constexpr (is_f32<D>) {
    const auto wide = [d](V v) HWY_ATTR {
      return ViaDouble(
          d, [](auto dd, auto w) { return ErfWide<true>(dd, w); }, v);
    };
#if HWY_NATIVE_FMA
    return ErfPieces(d, x, wide);
#else
    return wide(x);
#endif
  } else {
    return ErfWide<false>(d, x);
  }
}
template <class D, class V>
HWY_INLINE V Gelu(D d, V x) {
  if constexpr (is_f32<D>) {
    const auto wide = [d](V v) HWY_ATTR {
      return ViaDouble(
          d, [](auto dd, auto w) { return GeluWide<true>(dd, w); }, v);
    };
#if HWY_NATIVE_FMA
    return GeluPieces(d, x, wide);
#else
    return wide(x);
#endif
  } else {
    return GeluWide<false>(d, x);
  }
}

// |x|^y = e^(y ln |x|) in float64 for float32 numbers; signs and exceptions as C's pow.
template <class D, class V>
HWY_INLINE V PowWide(D d, V x, V y) {
  const V one = Const(d, 1), zero = hn::Zero(d), ax = hn::Abs(x),
          inf = Const(d, std::numeric_limits<double>::infinity());
  const V magnitude = hn::IfThenElse(hn::Eq(ax, one), one, Exp(d, hn::Mul(y, Log(d, ax))));
  const V half = hn::Mul(y, Const(d, 0.5));
  const auto whole = hn::Eq(hn::Round(y), y);
  const auto odd = hn::And(whole, hn::Ne(hn::Round(half), half));
  V out = hn::IfThenElse(odd, hn::CopySign(magnitude, x), magnitude);
  const auto undefined = hn::And(hn::And(hn::Lt(x, zero), hn::Gt(x, hn::Neg(inf))), hn::Not(whole));
  out = hn::IfThenElse(undefined, Const(d, std::numeric_limits<double>::quiet_NaN()), out);
  out = hn::IfThenElse(hn::Or(hn::IsNaN(x), hn::IsNaN(y)), hn::Add(x, y), out);
  return hn::IfThenElse(hn::Or(hn::Eq(y, zero), hn::Eq(x, one)), one, out);
}
template <class D, class V>
HWY_INLINE V Pow(D d, V x, V y) {
  if constexpr (is_f32<D>)
    return ViaDouble(
        d, [](auto dd, auto a, auto b) { return PowWide(dd, a, b); }, x, y);
  else
    return Lanewise(
        d, [](double a, double b) { return std::pow(a, b); }, x, y);
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();
#endif
