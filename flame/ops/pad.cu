// A tensor inside a larger one. FLAME_T: the dtype; FLAME_MODE: 0 constant, 1 reflect, 2 replicate, 3 circular;
// FLAME_I: of places.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;

struct Walk {
  int64_t rank, count, rows;  // rows: of the last axis
  int64_t in_size[8], size[8], before[8], in[8], out[8];
};
inline int64_t source_of(int64_t i, int64_t before, int64_t n) {
  const int64_t j = i - before;
  if (j >= 0 && j < n) return j;
  if (FLAME_MODE == 1) return j < 0 ? -j : 2 * (n - 1) - j;
  if (FLAME_MODE == 2) return j < 0 ? 0 : n - 1;
  if (FLAME_MODE == 3) return j < 0 ? j + n : j - n;
  return -1;
}

// A warp a row of the last axis, whose places need no division.
extern "C" __global__ void __launch_bounds__(256) pad(const __grid_constant__ Walk w, const T* x, T* out, T value) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32, last = w.rank - 1;
  if (row >= w.rows) return;
  bool inside = true;
  each_axis(static_cast<FLAME_I>(row), last, w.size, [&](int i, int64_t k) {
    const int64_t j = source_of(k, w.before[i], w.in_size[i]);
    inside = inside && j >= 0;
    x += j * w.in[i];
    out += k * w.out[i];
  });
#pragma unroll 4
  for (int64_t k = threadIdx.x % 32; k < w.size[last]; k += 32) {
    const int64_t j = source_of(k, w.before[last], w.in_size[last]);
    out[k * w.out[last]] = inside && j >= 0 ? x[j * w.in[last]] : value;
  }
}
// A thread an element, where the last axis is short.
extern "C" __global__ void __launch_bounds__(256)
    pad_short(const __grid_constant__ Walk w, const T* x, T* out, T value) {
  if (global_thread() >= w.count) return;
  bool inside = true;
  each_axis(static_cast<FLAME_I>(global_thread()), w.rank, w.size, [&](int i, int64_t k) {
    const int64_t j = source_of(k, w.before[i], w.in_size[i]);
    inside = inside && j >= 0;
    x += j * w.in[i];
    out += k * w.out[i];
  });
  *out = inside ? *x : value;
}

}  // namespace flame
