// One bisection a value; a NaN goes behind all. FLAME_T: the dtype.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;

extern "C" __global__ void __launch_bounds__(256) search(const T* sorted, const T* values, int64_t* out, int64_t n,
                                                         int64_t m, int64_t row, int64_t count, int64_t right) {
  const int64_t i = global_thread();
  if (i >= count) return;
  const auto v = widen(values[i]);
  const T* x = sorted + i / m * row;
  int64_t from = 0, to = n;
  while (from < to) {
    const int64_t middle = from + (to - from) / 2;
    const auto s = widen(x[middle]);
    if (right ? s > v : s >= v) to = middle;
    else from = middle + 1;
  }
  out[i] = from;
}

}  // namespace flame
