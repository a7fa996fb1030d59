// Resampling along up to three axes by tables of weights. FLAME_T: the dtype, or where elements are picked an integer of its
// size; 16-bit dtypes are summed in float32.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using A = computed<T>;

struct Axis {
  int64_t in, out;
  const int64_t* first;
  const int64_t* index;
  const double* weight;
};
struct Sizes {
  int64_t planes, inner, pick;
  Axis axis[3];
};

extern "C" __global__ void __launch_bounds__(256) resample(const __grid_constant__ Sizes s, const T* x, T* y) {
  int64_t i = global_thread();
  const int64_t own = i;
  if (i >= s.planes * s.axis[0].out * s.axis[1].out * s.axis[2].out * s.inner) return;
  const int64_t inner = i % s.inner;
  i /= s.inner;
  int64_t o[3];
  for (int a = 2; a >= 0; --a) {
    o[a] = i % s.axis[a].out;
    i /= s.axis[a].out;
  }
  const auto at = [&](int64_t d, int64_t h, int64_t w) {
    return (((i * s.axis[0].in + d) * s.axis[1].in + h) * s.axis[2].in + w) * s.inner + inner;
  };
  if (s.pick) {
    y[own] = x[at(s.axis[0].index[s.axis[0].first[o[0]]], s.axis[1].index[s.axis[1].first[o[1]]],
                  s.axis[2].index[s.axis[2].first[o[2]]])];
    return;
  }
  A deep = 0;
  for (int64_t d = s.axis[0].first[o[0]]; d < s.axis[0].first[o[0] + 1]; ++d) {
    A rows = 0;
    for (int64_t h = s.axis[1].first[o[1]]; h < s.axis[1].first[o[1] + 1]; ++h) {
      A line = 0;
      for (int64_t w = s.axis[2].first[o[2]]; w < s.axis[2].first[o[2] + 1]; ++w)
        line += static_cast<A>(s.axis[2].weight[w]) *
                static_cast<A>(widen(x[at(s.axis[0].index[d], s.axis[1].index[h], s.axis[2].index[w])]));
      rows += static_cast<A>(s.axis[1].weight[h]) * line;
    }
    deep += static_cast<A>(s.axis[0].weight[d]) * rows;
  }
  y[own] = convert<T>(deep);
}

}  // namespace flame
