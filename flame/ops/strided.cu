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
  each_axis(static_cast<FLAME_I>(global_thread()), w.rank, w.shape, [&](int i, int64_t k) {
    to += k * w.to[i];
    from += k * w.from[i];
  });
  *to = *from;
}

}  // namespace flame
