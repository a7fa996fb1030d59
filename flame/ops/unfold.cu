// Windows of pictures as columns, and columns added back into pictures, in the order of the window's positions.
// FLAME_T: the dtype; 16-bit ones are summed in float32.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using A = computed<T>;

// As in unfold.cpp.
struct Windows {
  int64_t planes, size[2], kernel[2], windows[2], stride[2], padding[2], dilation[2];
};

extern "C" __global__ void __launch_bounds__(256) unfold(const __grid_constant__ Windows w, const T* x, T* columns) {
  const int64_t i = global_thread(), count = w.windows[0] * w.windows[1], positions = w.kernel[0] * w.kernel[1];
  if (i >= w.planes * positions * count) return;
  const int64_t o = i % count, k = i / count % positions, plane = i / count / positions;
  const int64_t h = o / w.windows[1] * w.stride[0] + k / w.kernel[1] * w.dilation[0] - w.padding[0];
  const int64_t v = o % w.windows[1] * w.stride[1] + k % w.kernel[1] * w.dilation[1] - w.padding[1];
  const bool inside = h >= 0 && h < w.size[0] && v >= 0 && v < w.size[1];
  columns[i] = inside ? x[(plane * w.size[0] + h) * w.size[1] + v] : convert<T>(A(0));
}

extern "C" __global__ void __launch_bounds__(256) fold(const __grid_constant__ Windows w, const T* columns, T* x) {
  const int64_t i = global_thread();
  if (i >= w.planes * w.size[0] * w.size[1]) return;
  const int64_t at[2] = {i / w.size[1] % w.size[0], i % w.size[1]}, plane = i / w.size[1] / w.size[0];
  A sum = 0;
  for (int64_t r = 0; r < w.kernel[0]; ++r)
    for (int64_t s = 0; s < w.kernel[1]; ++s) {
      const int64_t p[2] = {at[0] + w.padding[0] - r * w.dilation[0], at[1] + w.padding[1] - s * w.dilation[1]};
      if (p[0] < 0 || p[1] < 0 || p[0] % w.stride[0] || p[1] % w.stride[1]) continue;
      const int64_t o[2] = {p[0] / w.stride[0], p[1] / w.stride[1]};
      if (o[0] >= w.windows[0] || o[1] >= w.windows[1]) continue;
      sum +=
          widen(columns[(((plane * w.kernel[0] + r) * w.kernel[1] + s) * w.windows[0] + o[0]) * w.windows[1] + o[1]]);
    }
  x[i] = convert<T>(sum);
}

}  // namespace flame
