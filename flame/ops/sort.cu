// Rows and their sorted places, equal elements in their order. Rows of up to 2,048 are padded to a power of two and sorted in
// shared memory, several a block, by a bitonic network over (key, place); long ones by radix.cu. FLAME_T: the dtype; FLAME_KEY: of long rows.
#include "flame/core/philox.h"
#include "flame/ops/sort.cuh"

namespace flame {
using T = FLAME_T;
using Order = Keys<T>;

struct Entry {
  uint64_t key, place;
};
#ifdef FLAME_KEY
using K = FLAME_KEY;
#else
using K = Entry;
#endif
// Sorted or to be sorted: entries, or keys with places beside them.
struct Sorted {
  K* keys;
  uint32_t* places;
  void put(int64_t i, uint64_t key, int64_t place) const {
#ifdef FLAME_KEY
    keys[i] = static_cast<K>(key);
    places[i] = static_cast<uint32_t>(place);
#else
    keys[i] = {key, static_cast<uint64_t>(place)};
#endif
  }
  uint64_t key(int64_t i) const {
#ifdef FLAME_KEY
    return keys[i];
#else
    return keys[i].key;
#endif
  }
  int64_t place(int64_t i) const {
#ifdef FLAME_KEY
    return places[i];
#else
    return static_cast<int64_t>(keys[i].place);
#endif
  }
};
inline bool less(const Entry& a, const Entry& b) { return a.key != b.key ? a.key < b.key : a.place < b.place; }
constexpr Entry last{~0ull, ~0ull};  // behind all

extern "C" __global__ void __launch_bounds__(256)
    fill(const __grid_constant__ Rows r, const T* x, K* keys, uint32_t* places) {
  const int64_t i = global_thread();
  if (i >= r.rows * r.padded) return;
  const int64_t row = i / r.padded, at = i % r.padded;
  const Sorted to{keys, places};
  if (at >= r.n) return to.put(i, last.key, -1);
  int64_t from, unused;
  row_at(r, row, from, unused);
  to.put(i, Order::of(x[from + at * r.x_step], r.descending), at);
}
extern "C" __global__ void __launch_bounds__(256)
    fill_random(K* keys, uint32_t* places, uint64_t seed, uint64_t call, int64_t n, int64_t padded) {
  const int64_t i = global_thread();
  if (i >= padded) return;
  const PhiloxBlock words = philox(seed, static_cast<uint64_t>(i / 2), call);
  const int lane = i % 2 ? 2 : 0;
  const Sorted to{keys, places};
  if (i < n) to.put(i, words[lane] | static_cast<uint64_t>(words[lane + 1]) << 32, i);
  else to.put(i, last.key, -1);
}

#ifndef FLAME_KEY
inline void order(Entry& a, Entry& b, bool rising) {
  if (less(b, a) == rising) {
    const Entry c = a;
    a = b;
    b = c;
  }
}
constexpr int tile = 2048;

extern "C" __global__ void __launch_bounds__(1024) stages(Entry* e, int64_t total, int64_t padded) {
  __shared__ Entry own[tile];
  const int64_t base = static_cast<int64_t>(blockIdx.x) * tile;
  for (int i = threadIdx.x; i < tile; i += 1024) own[i] = base + i < total ? e[base + i] : last;
  __syncthreads();
  for (int k = 2; k <= padded; k *= 2)
    for (int j = k / 2; j > 0; j /= 2) {
      const int t = threadIdx.x, i = 2 * (t - t % j) + t % j;
      order(own[i], own[i + j], (i & (padded - 1) & k) == 0);
      __syncthreads();
    }
  for (int i = threadIdx.x; i < tile; i += 1024)
    if (base + i < total) e[base + i] = own[i];
}
#endif

extern "C" __global__ void __launch_bounds__(256)
    put(const __grid_constant__ Rows r, K* keys, uint32_t* sorted_places, const T* x, T* values, int64_t* places) {
  const int64_t i = global_thread();
  if (i >= r.rows * r.wanted) return;
  const int64_t row = i / r.wanted, at = i % r.wanted;
  int64_t from, to;
  row_at(r, row, from, to);
  const Sorted own{keys + row * r.padded, sorted_places + row * r.padded};
  int64_t which = r.first + at;
  if (r.middle && own.key(r.n - 1) == Order::nan) {  // the first NaN instead
    int64_t low = 0, high = r.n - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (own.key(middle) == Order::nan) high = middle;
      else low = middle + 1;
    }
    which = low;
  }
  const int64_t place = own.place(which);
  values[to + at * r.y_step] = x[from + place * r.x_step];
  places[to + at * r.y_step] = place;
}
extern "C" __global__ void __launch_bounds__(256) put_places(K* keys, uint32_t* places, int64_t* out, int64_t n) {
  const int64_t i = global_thread();
  if (i < n) out[i] = Sorted{keys, places}.place(i);
}

}  // namespace flame
