// Convolution and its two gradients over three axes, for what cuDNN does not take: a thread (forward, data) or a warp
// (weights) makes one number. FLAME_T: the dtype; 16-bit ones are summed in float32. x and y are channels-last or any strides.
#include "flame/fuse/device.cuh"
#include "flame/fuse/scalar_math.h"

namespace flame {
using T = FLAME_T;
using namespace kernels;
using C = computed<T>;

struct Problem {
  int64_t n, c, o, groups;
  int64_t x[3], w[3], y[3];  // sizes along the axes
  int64_t stride[3], padding[3], dilation[3];
  int64_t xs[5], ws[5], ys[5];  // strides: n, c, axes; o, c, axes; n, o, axes
};

extern "C" __global__ void __launch_bounds__(256)
    forward(const __grid_constant__ Problem p, const T* x, const T* w, const T* bias, T* y) {
  const int64_t inner = p.c / p.groups, outer = p.o / p.groups;
  int64_t at = global_thread();
  if (at >= p.n * p.y[0] * p.y[1] * p.y[2] * p.o) return;
  const int64_t o = at % p.o, g = o / outer;
  int64_t place[3], rest = at / p.o;
  for (int i = 2; i >= 0; --i) {
    place[i] = rest % p.y[i];
    rest /= p.y[i];
  }
  const int64_t n = rest;
  C sum = 0;
  for (int64_t a = 0; a < p.w[0]; ++a) {
    const int64_t i = place[0] * p.stride[0] - p.padding[0] + a * p.dilation[0];
    if (i < 0 || i >= p.x[0]) continue;
    for (int64_t b = 0; b < p.w[1]; ++b) {
      const int64_t j = place[1] * p.stride[1] - p.padding[1] + b * p.dilation[1];
      if (j < 0 || j >= p.x[1]) continue;
      for (int64_t d = 0; d < p.w[2]; ++d) {
        const int64_t k = place[2] * p.stride[2] - p.padding[2] + d * p.dilation[2];
        if (k < 0 || k >= p.x[2]) continue;
        const T* xp = x + n * p.xs[0] + g * inner * p.xs[1] + i * p.xs[2] + j * p.xs[3] + k * p.xs[4];
        const T* wp = w + o * p.ws[0] + a * p.ws[2] + b * p.ws[3] + d * p.ws[4];
        for (int64_t q = 0; q < inner; ++q) sum = fused(widen(xp[q * p.xs[1]]), widen(wp[q * p.ws[1]]), sum);
      }
    }
  }
  if (bias) sum = plus(sum, C(widen(bias[o])));
  y[n * p.ys[0] + o * p.ys[1] + place[0] * p.ys[2] + place[1] * p.ys[3] + place[2] * p.ys[4]] = convert<T>(sum);
}

// Which place of y the tap at `tap` reads x's place from: -1 if none.
inline int64_t source(int64_t place, int64_t tap, int64_t stride, int64_t padding, int64_t dilation, int64_t size) {
  const int64_t at = place + padding - tap * dilation;
  if (at < 0 || at % stride != 0 || at / stride >= size) return -1;
  return at / stride;
}

extern "C" __global__ void __launch_bounds__(256)
    backward_data(const __grid_constant__ Problem p, const T* y, const T* w, T* x) {
  const int64_t inner = p.c / p.groups, outer = p.o / p.groups;
  int64_t at = global_thread();
  if (at >= p.n * p.x[0] * p.x[1] * p.x[2] * p.c) return;
  const int64_t c = at % p.c, g = c / inner;
  int64_t place[3], rest = at / p.c;
  for (int i = 2; i >= 0; --i) {
    place[i] = rest % p.x[i];
    rest /= p.x[i];
  }
  const int64_t n = rest;
  C sum = 0;
  for (int64_t a = 0; a < p.w[0]; ++a) {
    const int64_t i = source(place[0], a, p.stride[0], p.padding[0], p.dilation[0], p.y[0]);
    if (i < 0) continue;
    for (int64_t b = 0; b < p.w[1]; ++b) {
      const int64_t j = source(place[1], b, p.stride[1], p.padding[1], p.dilation[1], p.y[1]);
      if (j < 0) continue;
      for (int64_t d = 0; d < p.w[2]; ++d) {
        const int64_t k = source(place[2], d, p.stride[2], p.padding[2], p.dilation[2], p.y[2]);
        if (k < 0) continue;
        const T* yp = y + n * p.ys[0] + g * outer * p.ys[1] + i * p.ys[2] + j * p.ys[3] + k * p.ys[4];
        const T* wp = w + g * outer * p.ws[0] + (c - g * inner) * p.ws[1] + a * p.ws[2] + b * p.ws[3] + d * p.ws[4];
        for (int64_t q = 0; q < outer; ++q) sum = fused(widen(yp[q * p.ys[1]]), widen(wp[q * p.ws[0]]), sum);
      }
    }
  }
  x[n * p.xs[0] + c * p.xs[1] + place[0] * p.xs[2] + place[1] * p.xs[3] + place[2] * p.xs[4]] = convert<T>(sum);
}

// A block a number: its threads share the places of y, in an order that the sizes decide.
extern "C" __global__ void __launch_bounds__(256)
    backward_weight(const __grid_constant__ Problem p, const T* x, const T* y, T* w) {
  __shared__ C parts[256];
  const int64_t inner = p.c / p.groups, outer = p.o / p.groups;
  int64_t rest = blockIdx.x, tap[3];
  for (int i = 2; i >= 0; --i) {
    tap[i] = rest % p.w[i];
    rest /= p.w[i];
  }
  const int64_t q = rest % inner, o = rest / inner, c = o / outer * inner + q;
  const int64_t places = p.n * p.y[0] * p.y[1] * p.y[2];
  C sum = 0;
  for (int64_t at = threadIdx.x; at < places; at += 256) {
    int64_t left = at, place[3], from[3];
    bool inside = true;
    for (int i = 2; i >= 0; --i) {
      place[i] = left % p.y[i];
      left /= p.y[i];
      from[i] = place[i] * p.stride[i] - p.padding[i] + tap[i] * p.dilation[i];
      inside = inside && from[i] >= 0 && from[i] < p.x[i];
    }
    if (!inside) continue;
    const T* xp = x + left * p.xs[0] + c * p.xs[1] + from[0] * p.xs[2] + from[1] * p.xs[3] + from[2] * p.xs[4];
    const T* yp = y + left * p.ys[0] + o * p.ys[1] + place[0] * p.ys[2] + place[1] * p.ys[3] + place[2] * p.ys[4];
    sum = fused(widen(*xp), widen(*yp), sum);
  }
  parts[threadIdx.x] = sum;
  for (int by = 128; by > 0; by /= 2) {
    __syncthreads();
    if (threadIdx.x < by) parts[threadIdx.x] = plus(parts[threadIdx.x], parts[threadIdx.x + by]);
  }
  if (threadIdx.x == 0)
    w[o * p.ws[0] + q * p.ws[1] + tap[0] * p.ws[2] + tap[1] * p.ws[3] + tap[2] * p.ws[4]] = convert<T>(parts[0]);
}

}  // namespace flame
