// The element loops of Adam, SGD and clipping. The order of operations is PyTorch's; nothing is contracted, so every
// instruction set gives the same bits.
#include "flame/optim/update_internal.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/optim/update_simd.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace flame::optim::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// body(tag, i) over whole vectors, then element by element with a tag of one lane.
template <class T, class Body>
HWY_INLINE void for_each(int64_t n, const Body& body) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(d, i);
  for (; i < n; ++i) body(hn::CappedTag<T, 1>(), i);
}

template <class T>
void adam(const UpdateArguments& a, void* pp, const void* gp, void* mp, void* vp, int64_t n) {
  T* HWY_RESTRICT p = static_cast<T*>(pp);
  const T* HWY_RESTRICT g = static_cast<const T*>(gp);
  T* HWY_RESTRICT m = static_cast<T*>(mp);
  T* HWY_RESTRICT v = static_cast<T*>(vp);
  T k[8];
  for (int i = 0; i < 8; ++i) k[i] = static_cast<T>(a[static_cast<size_t>(i)]);
  const bool near_gradient = a[2] >= 0.5;  // lerp starts from its nearer end
  const T rest = static_cast<T>(1) - k[2];
  for_each<T>(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto x = hn::LoadU(d, p + i);
    const auto grad = hn::Add(hn::LoadU(d, g + i), hn::Mul(hn::Set(d, k[1]), x));
    const auto m0 = hn::LoadU(d, m + i);
    const auto change = hn::Sub(grad, m0);
    const auto m1 = near_gradient ? hn::Sub(grad, hn::Mul(change, hn::Set(d, rest)))
                                  : hn::Add(m0, hn::Mul(hn::Set(d, k[2]), change));
    const auto v1 =
        hn::Add(hn::Mul(hn::LoadU(d, v + i), hn::Set(d, k[3])), hn::Mul(hn::Mul(hn::Set(d, k[4]), grad), grad));
    const auto denominator = hn::Add(hn::Div(hn::Sqrt(v1), hn::Set(d, k[5])), hn::Set(d, k[6]));
    const auto step = hn::Div(hn::Mul(hn::Set(d, k[7]), m1), denominator);
    hn::StoreU(hn::Sub(hn::Mul(x, hn::Set(d, k[0])), step), d, p + i);
    hn::StoreU(m1, d, m + i);
    hn::StoreU(v1, d, v + i);
  });
}

template <class T>
void sgd(const UpdateArguments& a, void* pp, const void* gp, void*, void*, int64_t n) {
  T* HWY_RESTRICT p = static_cast<T*>(pp);
  const T* HWY_RESTRICT g = static_cast<const T*>(gp);
  const T decay = static_cast<T>(a[0]), lr = static_cast<T>(a[1]);
  for_each<T>(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto x = hn::LoadU(d, p + i);
    const auto grad = hn::Add(hn::LoadU(d, g + i), hn::Mul(hn::Set(d, decay), x));
    hn::StoreU(hn::Sub(x, hn::Mul(hn::Set(d, lr), grad)), d, p + i);
  });
}

template <class T>
void sgd_momentum(const UpdateArguments& a, void* pp, const void* gp, void* mp, void*, int64_t n) {
  T* HWY_RESTRICT p = static_cast<T*>(pp);
  const T* HWY_RESTRICT g = static_cast<const T*>(gp);
  T* HWY_RESTRICT m = static_cast<T*>(mp);
  T k[6];
  for (int i = 0; i < 6; ++i) k[i] = static_cast<T>(a[static_cast<size_t>(i)]);
  for_each<T>(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto x = hn::LoadU(d, p + i);
    const auto grad = hn::Add(hn::LoadU(d, g + i), hn::Mul(hn::Set(d, k[0]), x));
    const auto m1 = hn::Add(hn::Mul(hn::LoadU(d, m + i), hn::Set(d, k[2])), hn::Mul(hn::Set(d, k[3]), grad));
    const auto step = hn::Add(hn::Mul(hn::Set(d, k[4]), grad), hn::Mul(hn::Set(d, k[5]), m1));
    hn::StoreU(m1, d, m + i);
    hn::StoreU(hn::Sub(x, hn::Mul(hn::Set(d, k[1]), step)), d, p + i);
  });
}

// Four accumulators of 128 bits whatever the machine, so that the order of the sum depends on n alone.
template <class T>
double sum_squares(const void* xp, int64_t n) {
  const T* HWY_RESTRICT x = static_cast<const T*>(xp);
  const hn::CappedTag<T, 16 / sizeof(T)> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  const auto square = [&](int64_t i) HWY_ATTR {
    const auto v = hn::LoadU(d, x + i);
    return hn::Mul(v, v);
  };
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::Add(s0, square(i));
    s1 = hn::Add(s1, square(i + lanes));
    s2 = hn::Add(s2, square(i + 2 * lanes));
    s3 = hn::Add(s3, square(i + 3 * lanes));
  }
  double total = static_cast<double>(hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)))));
  for (; i < n; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

template <class T>
void scale(const void* xp, double factor, void* outp, int64_t n) {
  const T* HWY_RESTRICT x = static_cast<const T*>(xp);
  T* HWY_RESTRICT out = static_cast<T*>(outp);
  const T f = static_cast<T>(factor);
  for_each<T>(n,
              [&](auto d, int64_t i) HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, f)), d, out + i); });
}

// NaN stays NaN, as in clamp.
template <class T>
void clamp(const void* xp, double limit, void* outp, int64_t n) {
  const T* HWY_RESTRICT x = static_cast<const T*>(xp);
  T* HWY_RESTRICT out = static_cast<T*>(outp);
  const T f = static_cast<T>(limit);
  for_each<T>(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto v = hn::LoadU(d, x + i), high = hn::Set(d, f), low = hn::Set(d, -f);
    const auto below = hn::IfThenElse(hn::Gt(v, high), high, v);
    hn::StoreU(hn::IfThenElse(hn::Lt(below, low), low, below), d, out + i);
  });
}

Kernels kernels() {
  return {{adam<float>, adam<double>},
          {sgd<float>, sgd<double>},
          {sgd_momentum<float>, sgd_momentum<double>},
          {sum_squares<float>, sum_squares<double>},
          {scale<float>, scale<double>},
          {clamp<float>, clamp<double>}};
}

}  // namespace flame::optim::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame::optim {

HWY_EXPORT(kernels);
const Kernels& Kernels::best() {
  static const Kernels all = HWY_DYNAMIC_DISPATCH(kernels)();
  return all;
}

}  // namespace flame::optim
#endif
