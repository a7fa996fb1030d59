// Rows of one-hot numbers, and whether class numbers are in range. FLAME_T: the dtype of the numbers.
#include "flame/device/fault.cuh"

namespace flame {
using T = FLAME_T;

extern "C" __global__ void __launch_bounds__(256)
    one_hot(const char* op, const int64_t* index, T* out, int64_t rows, int64_t classes, int64_t axis, T one) {
  const int64_t at = global_thread();
  if (at >= rows) return;
  const int64_t k = index[at];
  if (k < 0 || k >= classes) report_bad_index(op, k, axis, classes);
  else out[at * classes + k] = one;
}

struct Targets {
  const char* op;
  int64_t rank, count, classes, ignored;
  int64_t shape[8], strides[8];
};
extern "C" __global__ void __launch_bounds__(256)
    class_range(const __grid_constant__ Targets t, const int64_t* target) {
  if (global_thread() >= t.count) return;
  each_axis(global_thread(), t.rank, t.shape, [&](int i, int64_t k) { target += k * t.strides[i]; });
  if ((*target < 0 || *target >= t.classes) && *target != t.ignored) report_bad_index(t.op, *target, -1, t.classes);
}

}  // namespace flame
