// Pooling and its gradients: a thread makes one number, from the windows that hold it, in the CPU's order.
// FLAME_T: the dtype; 16-bit ones are compared and summed in float32. FLAME_INDEX: int32_t where all counts fit.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using A = computed<T>;
using I = FLAME_INDEX;
using U = std::make_unsigned_t<I>;

// As in pool.cpp.
struct PoolAxis {
  I size, out, kernel, stride, padding, dilation;
};
struct PoolSizes {
  I images, channels;
  PoolAxis axis[3];
  bool channels_last, adaptive, count_padding;
  I divisor;
};
// Of numbers that are not negative.
inline I quotient(I a, I b) { return b == 1 ? a : static_cast<I>(static_cast<U>(a) / static_cast<U>(b)); }
inline I quotient_up(I a, I b) { return quotient(a + b - 1, b); }

struct Window {
  I start, begin, end;
};
inline Window window_of(const PoolSizes& p, int axis, I o) {
  const PoolAxis& a = p.axis[axis];
  if (p.adaptive) {
    const I start = quotient(o * a.size, a.out);
    return {start, 0, quotient_up((o + 1) * a.size, a.out) - start};
  }
  const I start = o * a.stride - a.padding;
  const I begin = start < 0 ? quotient_up(-start, a.dilation) : 0;
  I end = start < a.size ? quotient_up(a.size - start, a.dilation) : 0;
  if (end > a.kernel) end = a.kernel;
  return {start, begin, end > begin ? end : begin};
}
// The outputs along an axis whose windows reach over `at`.
struct Outputs {
  I begin, end;
};
inline Outputs outputs_over(const PoolSizes& p, int axis, I at) {
  const PoolAxis& a = p.axis[axis];
  if (p.adaptive) return {quotient(at * a.out, a.size), quotient_up((at + 1) * a.out, a.size)};
  const I to = at + a.padding, from = to - a.dilation * (a.kernel - 1);
  const I begin = from <= 0 ? 0 : quotient_up(from, a.stride), end = quotient(to, a.stride) + 1;
  return {begin, end < a.out ? end : a.out};
}
inline I counted(const PoolSizes& p, int axis, I o) {
  const PoolAxis& a = p.axis[axis];
  if (p.adaptive || !p.count_padding) {
    const Window w = window_of(p, axis, o);
    return w.end - w.begin;
  }
  const I start = o * a.stride - a.padding, end = start + a.kernel, most = a.size + a.padding;
  return (end < most ? end : most) - start;
}
inline A divisor(const PoolSizes& p, I d, I h, I w) {
  if (p.divisor) return static_cast<A>(p.divisor);
  return static_cast<A>(static_cast<int64_t>(counted(p, 0, d)) * counted(p, 1, h) * counted(p, 2, w));
}

// One number of a tensor: its place, and where image and channel begin in the other tensor, whose elements are `step` apart.
struct At {
  I place[3], first, step;
};
inline I plane_of(const PoolSizes& p, bool out) {
  return out ? p.axis[0].out * p.axis[1].out * p.axis[2].out : p.axis[0].size * p.axis[1].size * p.axis[2].size;
}
inline I count_of(const PoolSizes& p, bool out) { return p.images * p.channels * plane_of(p, out); }
inline At at_of(const PoolSizes& p, I i, bool out) {
  At a;
  I channel = 0;
  const auto split = [&](I n) {
    const I q = quotient(i, n), rest = i - q * n;
    i = q;
    return rest;
  };
  if (p.channels_last) channel = split(p.channels);
  for (int k = 2; k >= 0; --k) a.place[k] = split(out ? p.axis[k].out : p.axis[k].size);
  const I plane = plane_of(p, !out);
  a.first = p.channels_last ? i * plane * p.channels + channel : i * plane;
  a.step = p.channels_last ? p.channels : 1;
  return a;
}
// fn(place in the plane) for the elements of a window.
template <class F>
void each_element(const PoolSizes& p, const At& at, F fn) {
  const Window d = window_of(p, 0, at.place[0]), h = window_of(p, 1, at.place[1]), w = window_of(p, 2, at.place[2]);
  for (I q = d.begin; q < d.end; ++q)
    for (I r = h.begin; r < h.end; ++r) {
      const I row = (d.start + q * p.axis[0].dilation) * p.axis[1].size + h.start + r * p.axis[1].dilation;
      for (I s = w.begin; s < w.end; ++s) fn(row * p.axis[2].size + w.start + s * p.axis[2].dilation);
    }
}
// fn(d, h, w, where it lies) for the outputs whose windows hold an element.
template <class F>
void each_output(const PoolSizes& p, const At& at, F fn) {
  const Outputs d = outputs_over(p, 0, at.place[0]), h = outputs_over(p, 1, at.place[1]),
                w = outputs_over(p, 2, at.place[2]);
  for (I q = d.begin; q < d.end; ++q)
    for (I r = h.begin; r < h.end; ++r)
      for (I s = w.begin; s < w.end; ++s)
        fn(q, r, s, at.first + ((q * p.axis[1].out + r) * p.axis[2].out + s) * at.step);
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool(const __grid_constant__ PoolSizes p, const T* x, int32_t* index, T* y) {
  if (global_thread() >= count_of(p, true)) return;
  const I i = static_cast<I>(global_thread());
  const At at = at_of(p, i, true);
  A best = -std::numeric_limits<A>::infinity();
  int32_t where = -1;
  each_element(p, at, [&](I place) {
    const A v = widen(x[at.first + place * at.step]);
    if (where < 0 || (!(v <= best) && best == best)) {  // the first of equals; a NaN beats all but an earlier one
      best = v;
      where = static_cast<int32_t>(place);
    }
  });
  y[i] = convert<T>(best);
  index[i] = where;
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_backward(const __grid_constant__ PoolSizes p, const T* dy, const int32_t* index, T* dx) {
  if (global_thread() >= count_of(p, false)) return;
  const I i = static_cast<I>(global_thread());
  const At at = at_of(p, i, false);
  const I own = (at.place[0] * p.axis[1].size + at.place[1]) * p.axis[2].size + at.place[2];
  A sum = 0;
  each_output(p, at, [&](I, I, I, I o) {
    if (index[o] == own) sum += widen(dy[o]);
  });
  dx[i] = convert<T>(sum);
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_gather(const __grid_constant__ PoolSizes p, const T* x, const int32_t* index, T* y) {
  if (global_thread() >= count_of(p, true)) return;
  const I i = static_cast<I>(global_thread());
  const At at = at_of(p, i, true);
  const int32_t place = index[i];
  y[i] = place < 0 ? convert<T>(A(0)) : x[at.first + place * at.step];
}

extern "C" __global__ void __launch_bounds__(256) average(const __grid_constant__ PoolSizes p, const T* x, T* y) {
  if (global_thread() >= count_of(p, true)) return;
  const I i = static_cast<I>(global_thread());
  const At at = at_of(p, i, true);
  A sum = 0;
  each_element(p, at, [&](I place) { sum += widen(x[at.first + place * at.step]); });
  y[i] = convert<T>(sum / divisor(p, at.place[0], at.place[1], at.place[2]));
}

extern "C" __global__ void __launch_bounds__(256)
    average_backward(const __grid_constant__ PoolSizes p, const T* dy, T* dx) {
  if (global_thread() >= count_of(p, false)) return;
  const I i = static_cast<I>(global_thread());
  const At at = at_of(p, i, false);
  A sum = 0;
  each_output(p, at, [&](I q, I r, I s, I o) { sum += widen(dy[o]) / divisor(p, q, r, s); });
  dx[i] = convert<T>(sum);
}

}  // namespace flame
