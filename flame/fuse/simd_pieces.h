// Internal: erf and the normal tail in float32 lanes from tables of Taylor polynomials, right to about half an ulp at
// twice the lanes of float64. A value is a sum hi + lo, so this needs fused multiply-adds. Once per instruction set.
#if defined(FLAME_FUSE_SIMD_PIECES_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLAME_FUSE_SIMD_PIECES_H_
#undef FLAME_FUSE_SIMD_PIECES_H_
#else
#define FLAME_FUSE_SIMD_PIECES_H_
#endif

#include "flame/fuse/pieces.h"
#include "flame/fuse/simd_math.h"

#if HWY_NATIVE_FMA
HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {

// Entry i & 31 of 32.
template <class D, class I>
HWY_INLINE hn::Vec<D> LookUp(D d, const float* table, I i) {
#if HWY_TARGET <= HWY_AVX3
  if constexpr (hn::MaxLanes(D()) == 16) {
    const auto low = hn::Load(d, table), high = hn::Load(d, table + 16);
    return hn::Vec<D>{_mm512_permutex2var_ps(low.raw, i.raw, high.raw)};
  }
#endif
  const hn::RebindToSigned<D> di;
  return hn::GatherIndex(d, table, hn::And(i, hn::Set(di, 31)));
}

template <class V>
struct Sum2 {
  V hi, lo;
};
// The function of `t` at a, for 0 <= a < last_piece. What is smaller than 2^-8 of the result may be rounded to float32;
// the rest is kept with the rounding errors of its sums and products.
template <class D, class V>
HWY_INLINE Sum2<V> InPieces(D d, const Pieces& t, V a) {
  const hn::RebindToSigned<D> di;
  const V magic = Const(d, 0x1.8p20);  // its last bit is 1/8
  const V place = hn::Add(a, magic), x = hn::Sub(a, hn::Sub(place, magic));
  const auto i = hn::BitCast(di, place);
  V p = LookUp(d, t.c[6], i);
  for (int k = 5; k >= 3; --k) p = hn::MulAdd(p, x, LookUp(d, t.c[k], i));
  for (int k = 2; k >= 0; --k) p = hn::MulAdd(p, x, LookUp(d, t.low[k], i));
  const V c0 = LookUp(d, t.c[0], i), c1 = LookUp(d, t.c[1], i), c2 = LookUp(d, t.c[2], i);
  const V slope = hn::MulAdd(c2, x, c1), slope_rest = hn::MulAdd(c2, x, hn::Sub(c1, slope));
  const V rise = hn::Mul(slope, x), rise_rest = hn::MulSub(slope, x, rise);
  const V hi = hn::Add(c0, rise), hi_rest = hn::Add(hn::Sub(c0, hi), rise);
  return {hi, hn::Add(hn::Add(hn::MulAdd(slope_rest, x, p), rise_rest), hi_rest)};
}

// x Phi(x) = max(x, 0) - |x| Phi(-|x|); `far` gives the lanes beyond the table.
template <class D, class V, class F>
HWY_INLINE V GeluPieces(D d, V x, F far) {
  const V a = hn::Abs(x);
  const auto near = hn::Lt(a, Const(d, last_piece));
  const auto tail = InPieces(d, normal_tail_pieces, a);
  const V p = hn::Mul(a, tail.hi), p_rest = hn::MulAdd(a, tail.lo, hn::MulSub(a, tail.hi, p));
  const V positive = hn::Max(x, hn::Zero(d)), y = hn::Sub(positive, p);
  const V out = hn::Add(y, hn::Sub(hn::Sub(hn::Sub(positive, y), p), p_rest));
  const V signed_out = hn::CopySign(out, x);  // of -0 too
  return HWY_LIKELY(hn::AllTrue(d, near)) ? signed_out : hn::IfThenElse(near, signed_out, far(x));
}
// `tiny` gives the lanes whose rounding errors would be subnormal.
template <class D, class V, class F>
HWY_INLINE V ErfPieces(D d, V x, F tiny) {
  const V a = hn::Abs(x);
  const auto whole = hn::Or(hn::Eq(a, hn::Zero(d)), hn::Not(hn::Lt(a, Const(d, 0x1p-90))));
  const auto s = InPieces(d, erf_pieces, hn::Min(a, Const(d, 3.93)));  // 1 from there on
  const V out = KeepNaN(x, hn::CopySign(hn::Add(s.hi, s.lo), x), d);
  return HWY_LIKELY(hn::AllTrue(d, whole)) ? out : hn::IfThenElse(whole, out, tiny(x));
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();
#endif
#endif
