// Elements moved between strided tensors without looking at them. FLAME_T: an unsigned integer of the element's size;
// FLAME_I: of places.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;

struct Walk {
  int64_t rank, count;
  int64_t shape[8], to[8], from[8];
};

__device__ void move(const Walk& w, const T* from, T* to) {
  if (global_thread() >= w.count) return;
  each_axis(static_cast<FLAME_I>(global_thread()), w.rank, w.shape, [&](int i, int64_t k) {
    to += k * w.to[i];
    from += k * w.from[i];
  });
  *to = *from;
}

extern "C" __global__ void __launch_bounds__(256) copy(const __grid_constant__ Walk w, const T* from, T* to) {
  move(w, from, to);
}

// One copy a row of the grid.
struct Copies {
  Walk walk[8];
  const T* from[8];
  T* to[8];
};
extern "C" __global__ void __launch_bounds__(256) copy_several(const __grid_constant__ Copies c) {
  move(c.walk[blockIdx.y], c.from[blockIdx.y], c.to[blockIdx.y]);
}

}  // namespace flame
