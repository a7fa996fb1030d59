// The loops of clipping. Sums run in 128-bit lanes on every machine, so that their bits are the same.
#include "flame/optim/clip_internal.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/optim/clip_simd.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace flame::optim::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Folds term(x[i]) by join: four accumulators of 128 bits, then element by element.
template <class T, class Term, class Join>
HWY_INLINE double fold(const void* xp, int64_t n, const Term& term, const Join& join) {
  const T* HWY_RESTRICT x = static_cast<const T*>(xp);
  const hn::CappedTag<T, 16 / sizeof(T)> d;
  const hn::CappedTag<T, 1> one;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = join(d, s0, term(hn::LoadU(d, x + i)));
    s1 = join(d, s1, term(hn::LoadU(d, x + i + lanes)));
    s2 = join(d, s2, term(hn::LoadU(d, x + i + 2 * lanes)));
    s3 = join(d, s3, term(hn::LoadU(d, x + i + 3 * lanes)));
  }
  HWY_ALIGN T parts[16 / sizeof(T)] = {};
  hn::Store(join(d, join(d, s0, s1), join(d, s2, s3)), d, parts);
  const hn::CappedTag<double, 1> wide;
  auto total = hn::Zero(wide);
  for (const T part : parts) total = join(wide, total, hn::Set(wide, static_cast<double>(part)));
  for (; i < n; ++i) {
    const double last = static_cast<double>(hn::GetLane(hn::LoadU(one, x + i)));
    total = join(wide, total, term(hn::Set(wide, last)));
  }
  return hn::GetLane(total);
}
constexpr auto plus = [](auto, auto a, auto b) HWY_ATTR { return hn::Add(a, b); };
constexpr auto larger = [](auto, auto a, auto b)
                            HWY_ATTR { return hn::IfThenElse(hn::Ge(a, b), a, hn::IfThenElse(hn::Eq(a, a), b, a)); };

template <class T>
double absolutes(const void* x, int64_t n) {
  return fold<T>(
      x, n, [](auto v) HWY_ATTR { return hn::Abs(v); }, plus);
}
template <class T>
double squares(const void* x, int64_t n) {
  return fold<T>(
      x, n, [](auto v) HWY_ATTR { return hn::Mul(v, v); }, plus);
}
template <class T>
double largest(const void* x, int64_t n) {
  return fold<T>(
      x, n, [](auto v) HWY_ATTR { return hn::Abs(v); }, larger);
}

// out = body(x), whole vectors, then element by element.
template <class T, class Body>
HWY_INLINE void map(const void* xp, void* outp, int64_t n, const Body& body) {
  const T* HWY_RESTRICT x = static_cast<const T*>(xp);
  T* HWY_RESTRICT out = static_cast<T*>(outp);
  const hn::ScalableTag<T> d;
  const hn::CappedTag<T, 1> one;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(body(d, hn::LoadU(d, x + i)), d, out + i);
  for (; i < n; ++i) hn::StoreU(body(one, hn::LoadU(one, x + i)), one, out + i);
}

template <class T>
void scale(const void* x, double factor, void* out, int64_t n) {
  const T f = static_cast<T>(factor);
  map<T>(x, out, n, [f](auto d, auto v) HWY_ATTR { return hn::Mul(v, hn::Set(d, f)); });
}
template <class T>
void clamp(const void* x, double limit, void* out, int64_t n) {
  const T f = static_cast<T>(limit);
  map<T>(x, out, n, [f](auto d, auto v) HWY_ATTR {
    const auto high = hn::Set(d, f), low = hn::Set(d, -f);
    const auto below = hn::IfThenElse(hn::Gt(v, high), high, v);
    return hn::IfThenElse(hn::Lt(below, low), low, below);
  });
}

ClipKernels clip_kernels() {
  return {{absolutes<float>, absolutes<double>},
          {squares<float>, squares<double>},
          {largest<float>, largest<double>},
          {scale<float>, scale<double>},
          {clamp<float>, clamp<double>}};
}

}  // namespace flame::optim::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame::optim {

HWY_EXPORT(clip_kernels);
const ClipKernels& ClipKernels::best() {
  static const ClipKernels all = HWY_DYNAMIC_DISPATCH(clip_kernels)();
  return all;
}

}  // namespace flame::optim
#endif
