// The rotation of pairs of features, or its inverse: a thread a pair or a feature that stays. FLAME_T: the dtype.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using A = computed<T>;

struct Rows {
  int64_t rank, count;                           // of the axes before the features, and rows
  int64_t shape[8], x[8], cos[8], sin[8], y[8];  // strides along them
  int64_t features, pairs, first, second, x_step, y_step, inverse;
};

extern "C" __global__ void __launch_bounds__(256)
    rope(const __grid_constant__ Rows r, const T* x, const A* cos, const A* sin, T* y) {
  const int64_t work = r.pairs + r.features - 2 * r.pairs;
  if (global_thread() >= r.count * work) return;
  const int64_t i = global_thread() % work;
  each_axis(global_thread() / work, r.rank, r.shape, [&](int k, int64_t n) {
    x += n * r.x[k];
    cos += n * r.cos[k];
    sin += n * r.sin[k];
    y += n * r.y[k];
  });
  if (i >= r.pairs) {
    const int64_t f = 2 * r.pairs + (i - r.pairs);
    y[f * r.y_step] = x[f * r.x_step];
    return;
  }
  const int64_t from = i * r.first, to = from + r.second;
  const A a = widen(x[from * r.x_step]), b = widen(x[to * r.x_step]), s = r.inverse ? -sin[i] : sin[i];
  y[from * r.y_step] = convert<T>(a * cos[i] - b * s);
  y[to * r.y_step] = convert<T>(b * cos[i] + a * s);
}

}  // namespace flame
