// What stands around a convolution of cuDNN: filters between [O, C, taps] and [O, taps, C], and bias and activation, where
// FLAME_BIAS and FLAME_RELU are 1.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;

// [outer][a][b] to [outer][b][a], a tile of ta x tb numbers a block; ta * (tb | 1) is at most 4096.
extern "C" __global__ void __launch_bounds__(256)
    swap_last(const T* from, T* to, int64_t a, int64_t b, int32_t ta, int32_t tb) {
  __shared__ T tile[4096];
  const int64_t across = (b + tb - 1) / tb, down = (a + ta - 1) / ta, line = blockIdx.x / across;
  const int64_t a0 = line % down * ta, b0 = blockIdx.x % across * tb, outer = line / down * a * b;
  const int32_t rows = a - a0 < ta ? a - a0 : ta, columns = b - b0 < tb ? b - b0 : tb, step = tb | 1;
  for (int32_t at = threadIdx.x; at < rows * columns; at += 256) {
    const int32_t i = at / columns, j = at % columns;
    tile[i * step + j] = from[outer + (a0 + i) * b + b0 + j];
  }
  __syncthreads();
  for (int32_t at = threadIdx.x; at < rows * columns; at += 256) {
    const int32_t j = at / rows, i = at % rows;
    to[outer + (b0 + j) * a + a0 + i] = tile[i * step + j];
  }
}

#ifdef FLAME_BIAS
struct alignas(16) Eight {
  T of[8];
};

// Eight numbers a thread; in 16-byte steps if `packed`: then a multiple of 8 channels, if there is a bias.
extern "C" __global__ void finish(const T* bias, T* y, int64_t count, int64_t channels, bool packed) {
  const int64_t first = global_thread() * 8;
  if (first >= count) return;
  const int n = count - first < 8 ? count - first : 8;
  Eight all, added;
  if (packed) {
    all = *reinterpret_cast<const Eight*>(y + first);
    if (FLAME_BIAS) added = *reinterpret_cast<const Eight*>(bias + first % channels);
  } else {
    for (int i = 0; i < n; ++i) all.of[i] = y[first + i];
    if (FLAME_BIAS)
      for (int i = 0; i < n; ++i) added.of[i] = bias[(first + i) % channels];
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    auto x = widen(all.of[i]);
    if (FLAME_BIAS) x = x + widen(added.of[i]);
    if (FLAME_RELU) x = x > 0 ? x : 0;
    all.of[i] = convert<T>(x);
  }
  if (packed) *reinterpret_cast<Eight*>(y + first) = all;
  else
    for (int i = 0; i < n; ++i) y[first + i] = all.of[i];
}
#endif

}  // namespace flame
