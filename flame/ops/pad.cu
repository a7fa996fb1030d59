// A tensor inside a larger one. FLAME_T: the dtype; FLAME_MODE: 0 constant, 1 reflect, 2 replicate, 3 circular.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;

struct Walk {
  int64_t rank, count;
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

extern "C" __global__ void __launch_bounds__(256) pad(const __grid_constant__ Walk w, const T* x, T* out, T value) {
  int64_t at = global_thread();
  if (at >= w.count) return;
  bool inside = true;
  for (int64_t i = w.rank - 1; i >= 0; --i) {
    const int64_t k = at % w.size[i], j = source_of(k, w.before[i], w.in_size[i]);
    at /= w.size[i];
    inside = inside && j >= 0;
    x += j * w.in[i];
    out += k * w.out[i];
  }
  *out = inside ? *x : value;
}

}  // namespace flame
