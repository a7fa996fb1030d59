// Runs of cheap ops on one value: it stays in registers from the first op to the last, instead of a block in L1 an op.
// Every op is the same IEEE operation as in kernels_float.cpp, so a chain gives the bits of its ops one by one.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/fuse/kernels_chain.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include "flame/fuse/kernels_internal.h"
#include "flame/fuse/simd_math.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {

// Applies fn(value, other) to each vector of the running value.
template <size_t count, class D, class F>
HWY_INLINE void each(D d, hn::Vec<D>* v, const ChainOp& op, int64_t at, F fn) {
  using T = hn::TFromD<D>;
  const T* other = static_cast<const T*>(op.other);
  if (op.same) {
    const auto number = hn::Set(d, other[0]);
    for (size_t j = 0; j < count; ++j) v[j] = fn(v[j], number);
  } else {
    for (size_t j = 0; j < count; ++j)
      v[j] = fn(v[j], hn::LoadU(d, other + at + static_cast<int64_t>(j * hn::MaxLanes(d))));
  }
}

template <size_t count, class D>
HWY_INLINE void apply(D d, hn::Vec<D>* v, const ChainOp& op, int64_t at) {
  using V = hn::Vec<D>;
  switch (op.code) {
    case Code::add: return each<count>(d, v, op, at, [](V a, V b) { return hn::Add(a, b); });
    case Code::mul: return each<count>(d, v, op, at, [](V a, V b) { return hn::Mul(a, b); });
    case Code::sub:
      if (op.swapped) return each<count>(d, v, op, at, [](V a, V b) { return hn::Sub(b, a); });
      return each<count>(d, v, op, at, [](V a, V b) { return hn::Sub(a, b); });
    case Code::div:
      if (op.swapped) return each<count>(d, v, op, at, [](V a, V b) { return hn::Div(b, a); });
      return each<count>(d, v, op, at, [](V a, V b) { return hn::Div(a, b); });
    case Code::relu:
      for (size_t j = 0; j < count; ++j) v[j] = Maximum(d, v[j], hn::Zero(d));
      return;
    case Code::neg:
      for (size_t j = 0; j < count; ++j) v[j] = hn::Neg(v[j]);
      return;
    default:  // square; joins_chain() admits no other
      for (size_t j = 0; j < count; ++j) v[j] = hn::Mul(v[j], v[j]);
  }
}

template <size_t count, class D>
HWY_INLINE void run_vectors(D d, const ChainOp* ops, int length, const hn::TFromD<D>* in, hn::TFromD<D>* out,
                            int64_t at) {
  hn::Vec<D> v[count];
  for (size_t j = 0; j < count; ++j) v[j] = hn::LoadU(d, in + at + static_cast<int64_t>(j * hn::MaxLanes(d)));
  for (int k = 0; k < length; ++k) apply<count>(d, v, ops[k], at);
  for (size_t j = 0; j < count; ++j) hn::StoreU(v[j], d, out + at + static_cast<int64_t>(j * hn::MaxLanes(d)));
}

template <class T>
void run_chain(const ChainOp* ops, int length, const void* pin, void* pout, int64_t n) {
  const T* in = static_cast<const T*>(pin);
  T* out = static_cast<T*>(pout);
  const hn::ScalableTag<T> d;
  constexpr size_t wide = 8;
  constexpr int64_t lanes = hn::MaxLanes(hn::ScalableTag<T>());
  int64_t i = 0;
  for (; i + static_cast<int64_t>(wide) * lanes <= n; i += static_cast<int64_t>(wide) * lanes)
    run_vectors<wide>(d, ops, length, in, out, i);
  for (; i + lanes <= n; i += lanes) run_vectors<1>(d, ops, length, in, out, i);
  for (; i < n; ++i) run_vectors<1>(hn::CappedTag<T, 1>(), ops, length, in, out, i);
}

ChainFn chain_of(DType t) { return t == DType::f32 ? &run_chain<float> : &run_chain<double>; }

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame {
HWY_EXPORT(chain_of);
ChainFn chain_kernel(DType t) { return HWY_DYNAMIC_DISPATCH(chain_of)(t); }
bool joins_chain(Code code, DType t) {
  if (t != DType::f32 && t != DType::f64) return false;
  return code == Code::add || code == Code::sub || code == Code::mul || code == Code::div || code == Code::relu ||
         code == Code::neg || code == Code::square;
}
}  // namespace flame
#endif
