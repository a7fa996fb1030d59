// The element loops of the optimizers. The order of operations is PyTorch's; nothing is contracted, so every
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

// The arguments and the pointers of one call, in the dtype of the loop.
template <class T>
struct Call {
  T k[10];
  T* HWY_RESTRICT p;
  const T* HWY_RESTRICT g;
  T* HWY_RESTRICT m[max_moments];
  Call(const UpdateArguments& a, void* pp, const void* gp, void* const* mp)
      : p(static_cast<T*>(pp)), g(static_cast<const T*>(gp)) {
    for (size_t i = 0; i < a.size(); ++i) k[i] = static_cast<T>(a[i]);
    for (int i = 0; i < max_moments; ++i) m[i] = mp ? static_cast<T*>(mp[i]) : nullptr;
  }
  template <class D>
  HWY_INLINE hn::Vec<D> number(D d, int i) const {
    return hn::Set(d, k[i]);
  }
  // p[i] = body(tag, i, decayed p[i], gradient), where the gradient has its sign and the L2 decay.
  template <class Body>
  HWY_INLINE void update(int64_t n, const Body& body) const {
    const T* HWY_RESTRICT gradient = g;
    T* HWY_RESTRICT parameter = p;
    for_each<T>(n, [&](auto d, int64_t i) HWY_ATTR {
      const auto x = hn::LoadU(d, parameter + i);
      const auto grad = hn::Add(hn::Mul(number(d, 0), hn::LoadU(d, gradient + i)), hn::Mul(number(d, 2), x));
      hn::StoreU(body(d, i, hn::Mul(x, number(d, 1)), grad), d, parameter + i);
    });
  }
};

// from + weight * (to - from), computed from the nearer end.
template <class D>
HWY_INLINE hn::Vec<D> mix(D d, hn::Vec<D> from, hn::Vec<D> to, hn::TFromD<D> weight, bool near_to) {
  const auto change = hn::Sub(to, from);
  return near_to ? hn::Sub(to, hn::Mul(change, hn::Set(d, 1 - weight)))
                 : hn::Add(from, hn::Mul(hn::Set(d, weight), change));
}
// keep * v + add * g * g.
template <class D>
HWY_INLINE hn::Vec<D> mix_square(D d, hn::Vec<D> v, hn::Vec<D> g, hn::TFromD<D> keep, hn::TFromD<D> add) {
  return hn::Add(hn::Mul(v, hn::Set(d, keep)), hn::Mul(hn::Mul(hn::Set(d, add), g), g));
}

template <class T, bool amsgrad>
void adam(const UpdateArguments& a, void* p, const void* g, void* const* mp, int64_t n) {
  const Call<T> c(a, p, g, mp);
  T *HWY_RESTRICT m = c.m[0], *HWY_RESTRICT v = c.m[1], *HWY_RESTRICT most = c.m[2];
  const bool near_gradient = a[3] >= 0.5;
  c.update(n, [&](auto d, int64_t i, auto x, auto grad) HWY_ATTR {
    const auto m1 = mix(d, hn::LoadU(d, m + i), grad, c.k[3], near_gradient);
    const auto v1 = mix_square(d, hn::LoadU(d, v + i), grad, c.k[4], c.k[5]);
    hn::StoreU(m1, d, m + i);
    hn::StoreU(v1, d, v + i);
    auto second = v1;
    if constexpr (amsgrad) {
      const auto before = hn::LoadU(d, most + i);
      second = hn::IfThenElse(hn::Le(v1, before), before, v1);  // NaN stays
      hn::StoreU(second, d, most + i);
    }
    const auto denominator = hn::Add(hn::Div(hn::Sqrt(second), c.number(d, 6)), c.number(d, 7));
    return hn::Sub(x, hn::Div(hn::Mul(c.number(d, 8), m1), denominator));
  });
}

template <class T>
void nadam(const UpdateArguments& a, void* p, const void* g, void* const* mp, int64_t n) {
  const Call<T> c(a, p, g, mp);
  T *HWY_RESTRICT m = c.m[0], *HWY_RESTRICT v = c.m[1];
  const bool near_gradient = a[3] >= 0.5;
  c.update(n, [&](auto d, int64_t i, auto x, auto grad) HWY_ATTR {
    const auto m1 = mix(d, hn::LoadU(d, m + i), grad, c.k[3], near_gradient);
    const auto v1 = mix_square(d, hn::LoadU(d, v + i), grad, c.k[4], c.k[5]);
    hn::StoreU(m1, d, m + i);
    hn::StoreU(v1, d, v + i);
    const auto denominator = hn::Add(hn::Sqrt(hn::Div(v1, c.number(d, 6))), c.number(d, 7));
    const auto once = hn::Sub(x, hn::Div(hn::Mul(c.number(d, 8), grad), denominator));
    return hn::Sub(once, hn::Div(hn::Mul(c.number(d, 9), m1), denominator));
  });
}

template <class T>
void radam(const UpdateArguments& a, void* p, const void* g, void* const* mp, int64_t n) {
  const Call<T> c(a, p, g, mp);
  T *HWY_RESTRICT m = c.m[0], *HWY_RESTRICT v = c.m[1];
  const bool near_gradient = a[3] >= 0.5, rectified = a[6] != 0;
  c.update(n, [&](auto d, int64_t i, auto x, auto grad) HWY_ATTR {
    const auto m1 = mix(d, hn::LoadU(d, m + i), grad, c.k[3], near_gradient);
    const auto v1 = mix_square(d, hn::LoadU(d, v + i), grad, c.k[4], c.k[5]);
    hn::StoreU(m1, d, m + i);
    hn::StoreU(v1, d, v + i);
    const auto step = hn::Mul(m1, c.number(d, 8));
    if (!rectified) return hn::Sub(x, step);
    return hn::Sub(x, hn::Mul(step, hn::Div(c.number(d, 6), hn::Add(hn::Sqrt(v1), c.number(d, 7)))));
  });
}

template <class T>
void adamax(const UpdateArguments& a, void* p, const void* g, void* const* mp, int64_t n) {
  const Call<T> c(a, p, g, mp);
  T *HWY_RESTRICT m = c.m[0], *HWY_RESTRICT most = c.m[1];
  const bool near_gradient = a[3] >= 0.5;
  c.update(n, [&](auto d, int64_t i, auto x, auto grad) HWY_ATTR {
    const auto m1 = mix(d, hn::LoadU(d, m + i), grad, c.k[3], near_gradient);
    const auto before = hn::Mul(hn::LoadU(d, most + i), c.number(d, 4));
    const auto now = hn::Add(hn::Abs(grad), c.number(d, 5));
    const auto u = hn::IfThenElse(hn::Le(now, before), before, now);  // NaN stays
    hn::StoreU(m1, d, m + i);
    hn::StoreU(u, d, most + i);
    return hn::Sub(x, hn::Div(hn::Mul(c.number(d, 6), m1), u));
  });
}

template <class T>
void sgd(const UpdateArguments& a, void* p, const void* g, void* const* mp, int64_t n) {
  const Call<T> c(a, p, g, mp);
  c.update(n, [&](auto d, int64_t, auto x, auto grad) HWY_ATTR { return hn::Sub(x, hn::Mul(c.number(d, 3), grad)); });
}

template <class T>
void sgd_momentum(const UpdateArguments& a, void* p, const void* g, void* const* mp, int64_t n) {
  const Call<T> c(a, p, g, mp);
  T* HWY_RESTRICT m = c.m[0];
  c.update(n, [&](auto d, int64_t i, auto x, auto grad) HWY_ATTR {
    const auto m1 = hn::Add(hn::Mul(hn::LoadU(d, m + i), c.number(d, 4)), hn::Mul(c.number(d, 5), grad));
    hn::StoreU(m1, d, m + i);
    const auto step = hn::Add(hn::Mul(c.number(d, 6), grad), hn::Mul(c.number(d, 7), m1));
    return hn::Sub(x, hn::Mul(c.number(d, 3), step));
  });
}

template <class T, bool buffered, bool centered>
void rmsprop(const UpdateArguments& a, void* p, const void* g, void* const* mp, int64_t n) {
  const Call<T> c(a, p, g, mp);
  T *HWY_RESTRICT v = c.m[0], *HWY_RESTRICT buffer = c.m[1], *HWY_RESTRICT mean = c.m[buffered ? 2 : 1];
  const bool near_gradient = a[5] >= 0.5;
  c.update(n, [&](auto d, int64_t i, auto x, auto grad) HWY_ATTR {
    const auto v1 = mix_square(d, hn::LoadU(d, v + i), grad, c.k[4], c.k[5]);
    hn::StoreU(v1, d, v + i);
    auto spread = v1;
    if constexpr (centered) {
      const auto mean1 = mix(d, hn::LoadU(d, mean + i), grad, c.k[5], near_gradient);
      hn::StoreU(mean1, d, mean + i);
      spread = hn::Sub(v1, hn::Mul(mean1, mean1));
    }
    const auto denominator = hn::Add(hn::Sqrt(spread), c.number(d, 6));
    if constexpr (buffered) {
      const auto b1 = hn::Add(hn::Mul(hn::LoadU(d, buffer + i), c.number(d, 7)), hn::Div(grad, denominator));
      hn::StoreU(b1, d, buffer + i);
      return hn::Sub(x, hn::Mul(c.number(d, 3), b1));
    } else {
      return hn::Sub(x, hn::Div(hn::Mul(c.number(d, 3), grad), denominator));
    }
  });
}

template <class T>
void adagrad(const UpdateArguments& a, void* p, const void* g, void* const* mp, int64_t n) {
  const Call<T> c(a, p, g, mp);
  T* HWY_RESTRICT sum = c.m[0];
  c.update(n, [&](auto d, int64_t i, auto x, auto grad) HWY_ATTR {
    const auto s1 = hn::Add(hn::LoadU(d, sum + i), hn::Mul(grad, grad));
    hn::StoreU(s1, d, sum + i);
    return hn::Sub(x, hn::Div(hn::Mul(c.number(d, 3), grad), hn::Add(hn::Sqrt(s1), c.number(d, 4))));
  });
}

template <class T>
void lion(const UpdateArguments& a, void* p, const void* g, void* const* mp, int64_t n) {
  const Call<T> c(a, p, g, mp);
  T* HWY_RESTRICT m = c.m[0];
  c.update(n, [&](auto d, int64_t i, auto x, auto grad) HWY_ATTR {
    const auto m0 = hn::LoadU(d, m + i), zero = hn::Zero(d), lr = c.number(d, 3);
    const auto direction = hn::Add(hn::Mul(m0, c.number(d, 4)), hn::Mul(c.number(d, 5), grad));
    hn::StoreU(hn::Add(hn::Mul(m0, c.number(d, 6)), hn::Mul(c.number(d, 7), grad)), d, m + i);
    const auto down = hn::IfThenElse(hn::Gt(direction, zero), lr, zero);
    return hn::Sub(x, hn::IfThenElse(hn::Lt(direction, zero), hn::Neg(lr), down));
  });
}

template <class T>
void average(const UpdateArguments& a, void* p, const void* g, void* const* mp, int64_t n) {
  const Call<T> c(a, p, g, mp);
  T* HWY_RESTRICT x = c.p;
  const T* HWY_RESTRICT source = c.g;
  const bool near_source = a[3] >= 0.5, copies = a[3] == 1;
  for_each<T>(n, [&](auto d, int64_t i) HWY_ATTR {
    const auto to = hn::LoadU(d, source + i);
    hn::StoreU(copies ? to : mix(d, hn::LoadU(d, x + i), to, c.k[3], near_source), d, x + i);
  });
}

Kernels kernels() {
  return {.adam = {adam<float, false>, adam<double, false>},
          .amsgrad = {adam<float, true>, adam<double, true>},
          .nadam = {nadam<float>, nadam<double>},
          .radam = {radam<float>, radam<double>},
          .adamax = {adamax<float>, adamax<double>},
          .sgd = {sgd<float>, sgd<double>},
          .sgd_momentum = {sgd_momentum<float>, sgd_momentum<double>},
          .rmsprop = {{rmsprop<float, false, false>, rmsprop<float, true, false>, rmsprop<float, false, true>,
                       rmsprop<float, true, true>},
                      {rmsprop<double, false, false>, rmsprop<double, true, false>, rmsprop<double, false, true>,
                       rmsprop<double, true, true>}},
          .adagrad = {adagrad<float>, adagrad<double>},
          .lion = {lion<float>, lion<double>},
          .average = {average<float>, average<double>}};
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
