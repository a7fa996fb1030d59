// What stands around a convolution of cuDNN: filters between [O, C, taps] and [O, taps, C], and the bias.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;

extern "C" __global__ void swap_last(const T* from, T* to, int64_t outer, int64_t a, int64_t b) {
  const int64_t at = global_thread();
  if (at >= outer * a * b) return;
  const int64_t i = at % a, j = at / a % b, o = at / a / b;
  to[at] = from[(o * a + i) * b + j];
}

extern "C" __global__ void add_bias(const T* bias, T* y, int64_t count, int64_t channels) {
  const int64_t at = global_thread();
  if (at < count) y[at] = convert<T>(widen(y[at]) + widen(bias[at % channels]));
}

}  // namespace flame
