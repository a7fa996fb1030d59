// Adafactor's loops over pieces of rows. Sums run in the same 256 bytes of partial sums on every machine, whatever the
// width of its vectors, so that their bits are the same.
#include "flame/optim/adafactor_internal.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/optim/adafactor_simd.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace flame::optim::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The sum of term(tag, i) over [0, n). Partial sum j takes the elements whose place is j modulo their number; they are
// halved onto each other in the end, and the last few elements are added one by one.
template <class T, class Term>
HWY_INLINE double sum(int64_t n, const Term& term) {
  constexpr int64_t parts = 256 / sizeof(T), few = 64 / sizeof(T);
  const hn::CappedTag<T, few> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  double total = 0;
  int64_t i = 0;
  if (n >= few) {
    HWY_ALIGN T s[parts] = {};
    const auto add = [&](int64_t count) HWY_ATTR {
      for (int64_t j = 0; j < count; j += lanes) hn::Store(hn::Add(hn::Load(d, s + j), term(d, i + j)), d, s + j);
      i += count;
    };
    while (i + parts <= n) add(parts);
    while (i + few <= n) add(few);
    for (int64_t half = parts / 2; half >= few; half /= 2)
      for (int64_t j = 0; j < half; j += lanes)
        hn::Store(hn::Add(hn::Load(d, s + j), hn::Load(d, s + j + half)), d, s + j);
    for (int64_t half = few / 2; half >= 1; half /= 2)
      for (int64_t j = 0; j < half; ++j) s[j] += s[j + half];
    total = static_cast<double>(s[0]);
  }
  for (; i < n; ++i) total += static_cast<double>(hn::GetLane(term(hn::CappedTag<T, 1>(), i)));
  return total;
}
template <class T, class Body>
HWY_INLINE void for_each(int64_t n, const Body& body) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(d, i);
  for (; i < n; ++i) body(hn::CappedTag<T, 1>(), i);
}
// 1 / the root of a second moment, at most cap; NaN stays.
template <class D>
HWY_INLINE hn::Vec<D> capped(D d, hn::Vec<D> x, hn::TFromD<D> cap) {
  const auto most = hn::Set(d, cap);
  return hn::IfThenElse(hn::Gt(x, most), most, x);
}

template <class T>
double squares(const void* xp, int64_t n) {
  const T* HWY_RESTRICT x = static_cast<const T*>(xp);
  return sum<T>(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto v = hn::LoadU(d, x + i);
    return hn::Mul(v, v);
  });
}

template <class T>
double row_squares(const void* gp, void* columns, int64_t n) {
  const T* HWY_RESTRICT g = static_cast<const T*>(gp);
  T* HWY_RESTRICT c = static_cast<T*>(columns);
  return sum<T>(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto v = hn::LoadU(d, g + i), square = hn::Mul(v, v);
    hn::StoreU(hn::Add(hn::LoadU(d, c + i), square), d, c + i);
    return square;
  });
}

template <class T>
double factored_squares(const void* gp, const void* bp, double a, double cap, int64_t n) {
  const T *HWY_RESTRICT g = static_cast<const T*>(gp), *HWY_RESTRICT b = static_cast<const T*>(bp);
  const T row = static_cast<T>(a), most = static_cast<T>(cap);
  return sum<T>(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto u = hn::Mul(hn::LoadU(d, g + i), capped(d, hn::Mul(hn::Set(d, row), hn::LoadU(d, b + i)), most));
    return hn::Mul(u, u);
  });
}

template <class T>
void factored_update(void* pp, const void* gp, const void* bp, double a, double cap, double keep, double rate,
                     int64_t n) {
  T* HWY_RESTRICT p = static_cast<T*>(pp);
  const T *HWY_RESTRICT g = static_cast<const T*>(gp), *HWY_RESTRICT b = static_cast<const T*>(bp);
  const T row = static_cast<T>(a), most = static_cast<T>(cap), left = static_cast<T>(keep), by = static_cast<T>(rate);
  for_each<T>(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto u = hn::Mul(hn::LoadU(d, g + i), capped(d, hn::Mul(hn::Set(d, row), hn::LoadU(d, b + i)), most));
    const auto kept = hn::Mul(hn::LoadU(d, p + i), hn::Set(d, left));
    hn::StoreU(hn::Sub(kept, hn::Mul(hn::Set(d, by), u)), d, p + i);
  });
}

template <class D>
HWY_INLINE hn::Vec<D> inverse_root(D d, hn::Vec<D> v, hn::TFromD<D> cap) {
  return capped(d, hn::Div(hn::Set(d, 1), hn::Sqrt(v)), cap);
}

template <class T>
double vector_squares(const void* gp, void* vp, double weight, double cap, int64_t n) {
  const T* HWY_RESTRICT g = static_cast<const T*>(gp);
  T* HWY_RESTRICT v = static_cast<T*>(vp);
  const T w = static_cast<T>(weight), rest = static_cast<T>(1) - w, most = static_cast<T>(cap);
  const bool near_new = weight >= 0.5;
  return sum<T>(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto x = hn::LoadU(d, g + i), square = hn::Mul(x, x), before = hn::LoadU(d, v + i);
    const auto change = hn::Sub(square, before);
    const auto now =
        near_new ? hn::Sub(square, hn::Mul(change, hn::Set(d, rest))) : hn::Add(before, hn::Mul(hn::Set(d, w), change));
    hn::StoreU(now, d, v + i);
    const auto u = hn::Mul(inverse_root(d, now, most), x);
    return hn::Mul(u, u);
  });
}

template <class T>
void vector_update(void* pp, const void* gp, const void* vp, double cap, double keep, double rate, int64_t n) {
  T* HWY_RESTRICT p = static_cast<T*>(pp);
  const T *HWY_RESTRICT g = static_cast<const T*>(gp), *HWY_RESTRICT v = static_cast<const T*>(vp);
  const T most = static_cast<T>(cap), left = static_cast<T>(keep), by = static_cast<T>(rate);
  for_each<T>(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto u = hn::Mul(inverse_root(d, hn::LoadU(d, v + i), most), hn::LoadU(d, g + i));
    const auto kept = hn::Mul(hn::LoadU(d, p + i), hn::Set(d, left));
    hn::StoreU(hn::Sub(kept, hn::Mul(hn::Set(d, by), u)), d, p + i);
  });
}

FactorKernels factor_kernels() {
  return {{squares<float>, squares<double>},
          {row_squares<float>, row_squares<double>},
          {factored_squares<float>, factored_squares<double>},
          {factored_update<float>, factored_update<double>},
          {vector_squares<float>, vector_squares<double>},
          {vector_update<float>, vector_update<double>}};
}

}  // namespace flame::optim::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame::optim {

HWY_EXPORT(factor_kernels);
const FactorKernels& FactorKernels::best() {
  static const FactorKernels all = HWY_DYNAMIC_DISPATCH(factor_kernels)();
  return all;
}

}  // namespace flame::optim
#endif
