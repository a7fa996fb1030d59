// Pooling and its gradients: a thread makes one number, from the windows that hold it, in the CPU's order.
// FLAME_T: the dtype; 16-bit ones are compared and summed in float32.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using A = computed<T>;

// As in device/cpu/pool_kernel.h.
struct PoolAxis {
  int64_t size, out, kernel, stride, padding, dilation;
};
struct PoolSizes {
  int64_t images, channels;
  PoolAxis axis[3];
  bool channels_last, adaptive, count_padding;
  int64_t divisor;
};

struct Window {
  int64_t start, begin, end;
};
inline Window window_of(const PoolSizes& p, int axis, int64_t o) {
  const PoolAxis& a = p.axis[axis];
  if (p.adaptive) {
    const int64_t start = o * a.size / a.out;
    return {start, 0, ((o + 1) * a.size + a.out - 1) / a.out - start};
  }
  const int64_t start = o * a.stride - a.padding;
  const int64_t begin = start < 0 ? (-start + a.dilation - 1) / a.dilation : 0;
  int64_t end = start < a.size ? (a.size - start + a.dilation - 1) / a.dilation : 0;
  if (end > a.kernel) end = a.kernel;
  return {start, begin, end > begin ? end : begin};
}
// The outputs along an axis whose windows reach over `at`.
struct Outputs {
  int64_t begin, end;
};
inline Outputs outputs_over(const PoolSizes& p, int axis, int64_t at) {
  const PoolAxis& a = p.axis[axis];
  if (p.adaptive) return {at * a.out / a.size, ((at + 1) * a.out + a.size - 1) / a.size};
  const int64_t to = at + a.padding, reach = a.dilation * (a.kernel - 1), from = to - reach;
  const int64_t begin = from <= 0 ? 0 : (from + a.stride - 1) / a.stride, end = to / a.stride + 1;
  return {begin, end < a.out ? end : a.out};
}
inline int64_t counted(const PoolSizes& p, int axis, int64_t o) {
  const PoolAxis& a = p.axis[axis];
  const Window w = window_of(p, axis, o);
  if (p.adaptive || !p.count_padding) return w.end - w.begin;
  const int64_t end = w.start + a.kernel, most = a.size + a.padding;
  return (end < most ? end : most) - w.start;
}
inline A divisor(const PoolSizes& p, const int64_t* o) {
  return static_cast<A>(p.divisor ? p.divisor : counted(p, 0, o[0]) * counted(p, 1, o[1]) * counted(p, 2, o[2]));
}

// One number of a tensor: image, channel and place, from its position in memory.
struct At {
  int64_t image, channel, place[3];
};
inline At at_of(const PoolSizes& p, int64_t i, bool out) {
  At a;
  if (p.channels_last) {
    a.channel = i % p.channels;
    i /= p.channels;
  }
  for (int k = 2; k >= 0; --k) {
    const int64_t n = out ? p.axis[k].out : p.axis[k].size;
    a.place[k] = i % n;
    i /= n;
  }
  if (!p.channels_last) {
    a.channel = i % p.channels;
    i /= p.channels;
  }
  a.image = i;
  return a;
}
inline int64_t plane_of(const PoolSizes& p, bool out) {
  return out ? p.axis[0].out * p.axis[1].out * p.axis[2].out : p.axis[0].size * p.axis[1].size * p.axis[2].size;
}
inline int64_t offset(const PoolSizes& p, const At& a, int64_t place, bool out) {
  const int64_t plane = plane_of(p, out);
  return p.channels_last ? (a.image * plane + place) * p.channels + a.channel
                         : (a.image * p.channels + a.channel) * plane + place;
}
inline int64_t count_of(const PoolSizes& p, bool out) { return p.images * p.channels * plane_of(p, out); }

extern "C" __global__ void __launch_bounds__(256)
    max_pool(const __grid_constant__ PoolSizes p, const T* x, int32_t* index, T* y) {
  const int64_t i = global_thread();
  if (i >= count_of(p, true)) return;
  const At at = at_of(p, i, true);
  const Window d = window_of(p, 0, at.place[0]), h = window_of(p, 1, at.place[1]), w = window_of(p, 2, at.place[2]);
  A best = -std::numeric_limits<A>::infinity();
  int32_t where = -1;
  for (int64_t q = d.begin; q < d.end; ++q)
    for (int64_t r = h.begin; r < h.end; ++r)
      for (int64_t s = w.begin; s < w.end; ++s) {
        const int64_t place =
            ((d.start + q * p.axis[0].dilation) * p.axis[1].size + h.start + r * p.axis[1].dilation) * p.axis[2].size +
            w.start + s * p.axis[2].dilation;
        const A v = widen(x[offset(p, at, place, false)]);
        if (where < 0 || (!(v <= best) && best == best)) {  // the first of equals; a NaN beats all but an earlier one
          best = v;
          where = static_cast<int32_t>(place);
        }
      }
  y[i] = convert<T>(best);
  index[i] = where;
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_backward(const __grid_constant__ PoolSizes p, const T* dy, const int32_t* index, T* dx) {
  const int64_t i = global_thread();
  if (i >= count_of(p, false)) return;
  const At at = at_of(p, i, false);
  const int64_t own = (at.place[0] * p.axis[1].size + at.place[1]) * p.axis[2].size + at.place[2];
  const Outputs d = outputs_over(p, 0, at.place[0]), h = outputs_over(p, 1, at.place[1]),
                w = outputs_over(p, 2, at.place[2]);
  A sum = 0;
  for (int64_t q = d.begin; q < d.end; ++q)
    for (int64_t r = h.begin; r < h.end; ++r)
      for (int64_t s = w.begin; s < w.end; ++s) {
        const int64_t o = offset(p, at, (q * p.axis[1].out + r) * p.axis[2].out + s, true);
        if (index[o] == own) sum += widen(dy[o]);
      }
  dx[i] = convert<T>(sum);
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_gather(const __grid_constant__ PoolSizes p, const T* x, const int32_t* index, T* y) {
  const int64_t i = global_thread();
  if (i >= count_of(p, true)) return;
  const int32_t place = index[i];
  y[i] = place < 0 ? convert<T>(A(0)) : x[offset(p, at_of(p, i, true), place, false)];
}

extern "C" __global__ void __launch_bounds__(256) average(const __grid_constant__ PoolSizes p, const T* x, T* y) {
  const int64_t i = global_thread();
  if (i >= count_of(p, true)) return;
  const At at = at_of(p, i, true);
  const Window d = window_of(p, 0, at.place[0]), h = window_of(p, 1, at.place[1]), w = window_of(p, 2, at.place[2]);
  A sum = 0;
  for (int64_t q = d.begin; q < d.end; ++q)
    for (int64_t r = h.begin; r < h.end; ++r)
      for (int64_t s = w.begin; s < w.end; ++s)
        sum += widen(
            x[offset(p, at, ((d.start + q) * p.axis[1].size + h.start + r) * p.axis[2].size + w.start + s, false)]);
  y[i] = convert<T>(sum / divisor(p, at.place));
}

extern "C" __global__ void __launch_bounds__(256)
    average_backward(const __grid_constant__ PoolSizes p, const T* dy, T* dx) {
  const int64_t i = global_thread();
  if (i >= count_of(p, false)) return;
  const At at = at_of(p, i, false);
  const Outputs d = outputs_over(p, 0, at.place[0]), h = outputs_over(p, 1, at.place[1]),
                w = outputs_over(p, 2, at.place[2]);
  A sum = 0;
  for (int64_t q = d.begin; q < d.end; ++q)
    for (int64_t r = h.begin; r < h.end; ++r)
      for (int64_t s = w.begin; s < w.end; ++s) {
        const int64_t o[3] = {q, r, s};
        sum += widen(dy[offset(p, at, (q * p.axis[1].out + r) * p.axis[2].out + s, true)]) / divisor(p, o);
      }
  dx[i] = convert<T>(sum);
}

}  // namespace flame
