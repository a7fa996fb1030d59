// Standard normals from random bits on float32 vectors: the operations of normal_internal.h in their order, so the same
// bits. Lanes in the tail are rare (1 in 300), so its polynomial runs only where a vector has one.
#include "flame/ops/normal_internal.h"
#include "flame/ops/philox_internal.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/ops/normal_simd.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace flame::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// a b + c with one rounding, also where there is no such instruction.
template <class D, class V>
HWY_INLINE V fused(D d, V a, V b, V c) {
#if HWY_NATIVE_FMA
  (void)d;
  return hn::MulAdd(a, b, c);
#else
  constexpr size_t most = hn::MaxLanes(d);
  HWY_ALIGN float x[most], y[most], z[most];
  hn::Store(a, d, x);
  hn::Store(b, d, y);
  hn::Store(c, d, z);
  for (size_t i = 0; i < hn::Lanes(d); ++i) z[i] = std::fma(x[i], y[i], z[i]);
  return hn::Load(d, z);
#endif
}
template <class D, class V, size_t n>
HWY_INLINE V horner(D d, const float (&c)[n], V x) {
  V y = hn::Set(d, c[n - 1]);
  for (size_t i = n - 1; i-- > 0;) y = fused(d, y, x, hn::Set(d, c[i]));
  return y;
}
// The nearest float32, by two exact halves and one rounded sum.
template <class D, class U>
HWY_INLINE hn::Vec<D> to_float(D d, U bits) {
  const hn::RebindToSigned<D> di;
  const hn::RebindToUnsigned<D> du;
  const auto high = hn::ConvertTo(d, hn::BitCast(di, hn::ShiftRight<16>(bits)));
  const auto low = hn::ConvertTo(d, hn::BitCast(di, hn::And(bits, hn::Set(du, 0xffffu))));
  return hn::Add(hn::Mul(high, hn::Set(d, 0x1p16f)), low);
}
template <class D, class V>
HWY_INLINE V minus_log(D d, V t) {
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto u = hn::Add(hn::BitCast(du, t), hn::Set(du, 0x3f800000u - 0x3f3504f3u));
  const V e = hn::ConvertTo(d, hn::Sub(hn::BitCast(di, hn::ShiftRight<23>(u)), hn::Set(di, 127)));
  const auto mantissa = hn::Add(hn::And(u, hn::Set(du, 0x7fffffu)), hn::Set(du, 0x3f3504f3u));
  const V f = hn::Sub(hn::BitCast(d, mantissa), hn::Set(d, 1.0f));
  const V y = fused(d, horner(d, inverse_normal::log32, f), f, hn::Set(d, -0.5f));
  return hn::Neg(fused(d, e, hn::Set(d, inverse_normal::log_of_2), fused(d, y, hn::Mul(f, f), f)));
}

void normals(const uint32_t* bits, int64_t count, float shift, float scale, float* out) {
  const hn::ScalableTag<float> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto b = hn::LoadU(du, bits + i);
    const auto odd = hn::Or(hn::Add(b, b), hn::Set(du, 1));  // the sum drops the sign bit
    const auto p = hn::Mul(to_float(d, odd), hn::Set(d, 0x1p-33f));
    const auto q = hn::Mul(to_float(d, hn::Sub(hn::Zero(du), odd)), hn::Set(d, 0x1p-33f));
    const auto w = minus_log(d, hn::Mul(hn::Mul(hn::Set(d, 4.0f), p), hn::Sub(hn::Set(d, 1.0f), p)));
    auto z = hn::Mul(q, horner(d, inverse_normal::central32, hn::Sub(w, hn::Set(d, 2.5f))));
    const auto central = hn::Lt(w, hn::Set(d, 5.0f));
    if (!hn::AllTrue(d, central)) {
      const auto root = hn::Sqrt(hn::IfThenElse(central, hn::Set(d, 5.0f), w));
      z = hn::IfThenElse(central, z, horner(d, inverse_normal::tail32, hn::Sub(root, hn::Set(d, 3.4375f))));
    }
    z = hn::Xor(z, hn::BitCast(d, hn::And(b, hn::Set(du, 0x80000000u))));
    hn::StoreU(hn::Add(hn::Set(d, shift), hn::Mul(hn::Set(d, scale), z)), d, out + i);
  }
  for (; i < count; ++i) out[i] = shift + scale * inverse_normal::from_bits(bits[i]);
}

}  // namespace flame::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame {

HWY_EXPORT(normals);
void normals_of(const uint32_t* bits, int64_t count, float shift, float scale, float* out) {
  HWY_DYNAMIC_DISPATCH(normals)(bits, count, shift, scale, out);
}

}  // namespace flame
#endif
