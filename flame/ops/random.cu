// Random numbers: the CPU's Philox blocks and its arithmetic, so the bits are the same. A thread makes one block.
// FLAME_T: the dtype of what is drawn.
#include "flame/core/philox.h"
#include "flame/fuse/device.cuh"
#include "flame/ops/normal_internal.h"

namespace flame {
using T = FLAME_T;
using A = computed<T>;

struct Draw {
  uint64_t seed, call;
  int64_t count;
  double f[6];    // uniform, normal: shift, scale; truncated: mean, std, a, b
  uint64_t u[2];  // integers: low, range; bernoulli: threshold; truncated: first, range
};

// out[i] = fn(32 bits), four a block.
template <class F>
void fill32(const Draw& d, T* out, F fn) {
  const int64_t block = global_thread();
  if (4 * block >= d.count) return;
  const PhiloxBlock b = philox(d.seed, block, d.call);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (4 * block + i < d.count) out[4 * block + i] = convert<T>(fn(b[i]));
}
// out[i] = fn(64 bits), two a block.
template <class F>
void fill64(const Draw& d, T* out, F fn) {
  const int64_t block = global_thread();
  if (2 * block >= d.count) return;
  const PhiloxBlock b = philox(d.seed, block, d.call);
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (2 * block + i < d.count)
      out[2 * block + i] = convert<T>(fn(b[2 * i] | static_cast<uint64_t>(b[2 * i + 1]) << 32));
}

extern "C" __global__ void __launch_bounds__(256) rand_uniform(const __grid_constant__ Draw d, T* out) {
  const A shift = static_cast<A>(d.f[0]), scale = static_cast<A>(d.f[1]);
  if constexpr (std::is_same_v<A, double>)
    fill64(d, out, [=](uint64_t w) { return shift + scale * (static_cast<double>(w >> 11) * 0x1p-53); });
  else fill32(d, out, [=](uint32_t w) { return shift + scale * (static_cast<float>(w >> 8) * 0x1p-24f); });
}
extern "C" __global__ void __launch_bounds__(256) rand_normal(const __grid_constant__ Draw d, T* out) {
  const A shift = static_cast<A>(d.f[0]), scale = static_cast<A>(d.f[1]);
  if constexpr (std::is_same_v<A, double>)
    fill64(d, out, [=](uint64_t w) { return shift + scale * inverse_normal::from_bits(w); });
  else fill32(d, out, [=](uint32_t w) { return shift + scale * inverse_normal::from_bits(w); });
}
extern "C" __global__ void __launch_bounds__(256) rand_truncated(const __grid_constant__ Draw d, T* out) {
  fill64(d, out, [=](uint64_t w) {
    const uint64_t place = d.u[0] + __umul64hi(w, d.u[1]), half = 1ull << 63;
    const double z = inverse_normal::from_bits(place < half ? place | half : ~place);
    const double v = d.f[0] + d.f[1] * z, low = d.f[2], high = d.f[3];
    return static_cast<A>(v < low ? low : high < v ? high : v);
  });
}
extern "C" __global__ void __launch_bounds__(256) rand_integers(const __grid_constant__ Draw d, T* out) {
  fill64(d, out, [=](uint64_t w) { return static_cast<int64_t>(d.u[0] + __umul64hi(w, d.u[1])); });
}
extern "C" __global__ void __launch_bounds__(256) rand_bernoulli(const __grid_constant__ Draw d, T* out) {
  fill32(d, out, [=](uint32_t w) { return w < d.u[0]; });
}

}  // namespace flame
