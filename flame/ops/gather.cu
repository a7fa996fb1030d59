// Reading and writing by index along one axis, and rows of one-hot numbers. Where entries meet, they are combined in the
// order of the index by one thread, so the result is the same each time. A bad index stops the device, as it would
// otherwise read or write beside the tensor. FLAME_T: the dtype, or an integer of its size where numbers only move.
#include "flame/fuse/device.cuh"
#include "flame/fuse/scalar_math.h"

namespace flame {
using namespace kernels;
using T = FLAME_T;

// Over the index's shape: the small tensor, the index, and the big one without its walk along the axis.
struct Walk {
  int64_t rank, count, axis, size, step;
  int64_t shape[8], small[8], index[8], big[8];
};
inline int64_t checked(int64_t i, int64_t size) {
  if (i < 0 || i >= size) __trap();
  return i;
}

extern "C" __global__ void __launch_bounds__(256)
    gather(const __grid_constant__ Walk w, const T* x, const int64_t* index, T* out) {
  int64_t at = global_thread();
  if (at >= w.count) return;
  for (int64_t i = w.rank - 1; i >= 0; --i) {
    const int64_t k = at % w.shape[i];
    at /= w.shape[i];
    out += k * w.small[i];
    index += k * w.index[i];
    x += k * w.big[i];
  }
  *out = x[checked(*index, w.size) * w.step];
}

#ifdef FLAME_COMBINE
struct assign {
  static T of(T, T s) { return s; }
};
struct add {
  static T of(T e, T s) { return plus(e, s); }
};
struct prod {
  static T of(T e, T s) { return times(e, s); }
};
struct amax {
  static T of(T e, T s) { return s > e || s != s ? s : e; }
};
struct amin {
  static T of(T e, T s) { return s < e || s != s ? s : e; }
};

// A thread for each place beside the axis; it walks along it.
extern "C" __global__ void __launch_bounds__(256)
    scatter(const __grid_constant__ Walk w, const T* src, const int64_t* index, T* out) {
  int64_t at = global_thread();
  const int64_t along = w.shape[w.axis];
  if (at >= w.count / along) return;
  for (int64_t i = w.rank - 1; i >= 0; --i) {
    if (i == w.axis) continue;
    const int64_t k = at % w.shape[i];
    at /= w.shape[i];
    src += k * w.small[i];
    index += k * w.index[i];
    out += k * w.big[i];
  }
  for (int64_t k = 0; k < along; ++k) {
    T& e = out[checked(index[k * w.index[w.axis]], w.size) * w.step];
    e = FLAME_COMBINE::of(e, src[k * w.small[w.axis]]);
  }
}
#endif

extern "C" __global__ void __launch_bounds__(256)
    one_hot(const int64_t* index, T* out, int64_t rows, int64_t classes, T one) {
  const int64_t at = global_thread();
  if (at < rows) out[at * classes + checked(index[at], classes)] = one;
}

}  // namespace flame
