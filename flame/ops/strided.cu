// Elements moved between strided tensors without looking at them. FLAME_T: an unsigned integer of the element's size.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;

struct Walk {
  int64_t rank, count;
  int64_t shape[8], to[8], from[8];
};

extern "C" __global__ void __launch_bounds__(256) copy(const __grid_constant__ Walk w, const T* from, T* to) {
  int64_t at = global_thread();
  if (at >= w.count) return;
  for (int64_t i = w.rank - 1; i >= 0; --i) {
    const int64_t k = at % w.shape[i];
    at /= w.shape[i];
    to += k * w.to[i];
    from += k * w.from[i];
  }
  *to = *from;
}

}  // namespace flame
