// Reading and writing by several index tensors. Writing: a thread owns an element of every slice and takes the entries in
// their order, so that what meets at one place does so in one order. A bad index stops the device.
#include "flame/fuse/device.cuh"
#include "flame/fuse/scalar_math.h"

namespace flame {
using namespace kernels;
using T = FLAME_T;

struct Walk {
  int64_t entries, slice, axes, at_rank, slice_rank, wraps;
  int64_t size[8], step[8];    // of the indexed axes of the big tensor
  int64_t at[8], small_at[8];  // sizes of the index's shape, and strides of the small tensor along it
  int64_t index_at[8][8];      // of each index tensor
  int64_t rest[8], small_rest[8], big_rest[8];
  const int64_t* index[8];
};
// Where entry b points, and where it stands in the small tensor.
inline void places(const Walk& w, int64_t b, int64_t& big, int64_t& small) {
  int64_t where[8], rest = b;
  small = big = 0;
  for (int64_t i = w.at_rank - 1; i >= 0; --i) {
    where[i] = rest % w.at[i];
    rest /= w.at[i];
    small += where[i] * w.small_at[i];
  }
  for (int64_t j = 0; j < w.axes; ++j) {
    int64_t at = 0;
    for (int64_t i = 0; i < w.at_rank; ++i) at += where[i] * w.index_at[j][i];
    int64_t k = w.index[j][at];
    if (w.wraps && k < 0) k += w.size[j];
    if (k < 0 || k >= w.size[j]) __trap();
    big += k * w.step[j];
  }
}
inline void slice_of(const Walk& w, int64_t element, int64_t& big, int64_t& small) {
  for (int64_t i = w.slice_rank - 1; i >= 0; --i) {
    const int64_t k = element % w.rest[i];
    element /= w.rest[i];
    small += k * w.small_rest[i];
    big += k * w.big_rest[i];
  }
}

extern "C" __global__ void __launch_bounds__(256) index_get(const __grid_constant__ Walk w, const T* x, T* out) {
  const int64_t i = global_thread();
  if (i >= w.entries * w.slice) return;
  int64_t big, small;
  places(w, i / w.slice, big, small);
  slice_of(w, i % w.slice, big, small);
  out[small] = x[big];
}

extern "C" __global__ void __launch_bounds__(256) index_put(const __grid_constant__ Walk w, const T* value, T* out) {
  const int64_t i = global_thread();
  if (i >= w.slice) return;
  int64_t big0 = 0, small0 = 0;
  slice_of(w, i, big0, small0);
  for (int64_t b = 0; b < w.entries; ++b) {
    int64_t big, small;
    places(w, b, big, small);
    T& e = out[big0 + big];
#ifdef FLAME_ADD
    e = plus(e, value[small0 + small]);
#else
    e = value[small0 + small];
#endif
  }
}

}  // namespace flame
