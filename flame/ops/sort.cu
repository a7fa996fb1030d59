// Keys and places of long rows, to be sorted by radix.cu, and what is read from them then. FLAME_T: the dtype; FLAME_KEY: what
// keys lie as.
#include "flame/core/philox.h"
#include "flame/ops/sort.cuh"

namespace flame {
using T = FLAME_T;
using Order = Keys<T>;
using K = FLAME_KEY;

extern "C" __global__ void __launch_bounds__(256)
    fill(const __grid_constant__ Rows r, const T* x, K* keys, uint32_t* places) {
  const int64_t i = global_thread();
  if (i >= r.rows * r.n) return;
  const int64_t row = i / r.n, at = i % r.n;
  int64_t from, unused;
  row_at(r, row, from, unused);
  keys[i] = static_cast<K>(Order::of(x[from + at * r.x_step], r.descending));
  places[i] = static_cast<uint32_t>(at);
}
extern "C" __global__ void __launch_bounds__(256)
    fill_random(K* keys, uint32_t* places, uint64_t seed, uint64_t call, int64_t n) {
  const int64_t i = global_thread();
  if (i >= n) return;
  const PhiloxBlock words = philox(seed, static_cast<uint64_t>(i / 2), call);
  const int lane = i % 2 ? 2 : 0;
  keys[i] = static_cast<K>(words[lane] | static_cast<uint64_t>(words[lane + 1]) << 32);
  places[i] = static_cast<uint32_t>(i);
}

extern "C" __global__ void __launch_bounds__(256)
    put(const __grid_constant__ Rows r, const K* keys, const uint32_t* sorted_places, const T* x, T* values,
        int64_t* places) {
  const int64_t i = global_thread();
  if (i >= r.rows * r.wanted) return;
  const int64_t row = i / r.wanted, at = i % r.wanted;
  int64_t from, to;
  row_at(r, row, from, to);
  const K* own = keys + row * r.n;
  int64_t which = r.first + at;
  if (r.middle && own[r.n - 1] == Order::nan) {  // the first NaN instead
    int64_t low = 0, high = r.n - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (own[middle] == Order::nan) high = middle;
      else low = middle + 1;
    }
    which = low;
  }
  const int64_t place = sorted_places[row * r.n + which];
  values[to + at * r.y_step] = x[from + place * r.x_step];
  places[to + at * r.y_step] = place;
}
extern "C" __global__ void __launch_bounds__(256) put_places(const uint32_t* places, int64_t* out, int64_t n) {
  const int64_t i = global_thread();
  if (i < n) out[i] = places[i];
}

}  // namespace flame
