// What stands around a convolution of cuDNN: filters between [O, C, taps] and [O, taps, C], and bias and activation, where
// FLAME_BIAS and FLAME_RELU are 1.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;

extern "C" __global__ void swap_last(const T* from, T* to, int64_t outer, int64_t a, int64_t b) {
  const int64_t at = global_thread();
  if (at >= outer * a * b) return;
  const int64_t i = at % a, j = at / a % b, o = at / a / b;
  to[at] = from[(o * a + i) * b + j];
}

#ifdef FLAME_BIAS
extern "C" __global__ void finish(const T* bias, T* y, int64_t count, int64_t channels) {
  const int64_t at = global_thread();
  if (at >= count) return;
  auto x = widen(y[at]);
#if FLAME_BIAS
  x = x + widen(bias[at % channels]);
#endif
#if FLAME_RELU
  x = x > 0 ? x : 0;
#endif
  y[at] = convert<T>(x);
}
#endif

}  // namespace flame
