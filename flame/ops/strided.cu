// Elements moved between strided tensors without looking at them. FLAME_T: an unsigned integer of the element's size;
// FLAME_I: of places.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;

struct Walk {
  int64_t rank, count;
  int64_t shape[8], to[8], from[8];
};

extern "C" __global__ void __launch_bounds__(256) copy(const __grid_constant__ Walk w, const T* from, T* to) {
  if (global_thread() >= w.count) return;
  FLAME_I at = static_cast<FLAME_I>(global_thread());
  for (int i = static_cast<int>(w.rank) - 1; i > 0; --i) {
    const FLAME_I size = static_cast<FLAME_I>(w.shape[i]), rest = at / size;
    const int64_t k = at - rest * size;
    at = rest;
    to += k * w.to[i];
    from += k * w.from[i];
  }
  to[w.rank > 0 ? at * w.to[0] : 0] = from[w.rank > 0 ? at * w.from[0] : 0];
}

}  // namespace flame
