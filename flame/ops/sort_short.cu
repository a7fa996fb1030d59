// Short rows, padded to a power of two and sorted in shared memory, several a block, by a bitonic network over keys and places.
// FLAME_T: the dtype.
#include "flame/ops/sort.cuh"

namespace flame {
using T = FLAME_T;
using Order = Keys<T>;
using K = Order::K;
constexpr int threads = 1024, tile = 2 * threads;  // as in sort_device.cpp

struct Wide {
  K key;
  uint64_t place;
  bool operator<(const Wide& o) const { return key != o.key ? key < o.key : place < o.place; }
};
struct Narrow {
  uint64_t both;
  bool operator<(const Narrow& o) const { return both < o.both; }
};
template <bool wide>
struct Entries {
  using E = Wide;
  static E of(K key, uint32_t place) { return {key, place}; }
  static K key(const E& e) { return e.key; }
  static uint32_t place(const E& e) { return static_cast<uint32_t>(e.place); }
};
template <>
struct Entries<false> {
  using E = Narrow;
  static E of(K key, uint32_t place) { return {static_cast<uint64_t>(key) << 32 | place}; }
  static K key(const E& e) { return static_cast<K>(e.both >> 32); }
  static uint32_t place(const E& e) { return static_cast<uint32_t>(e.both); }
};
using In = Entries<sizeof(T) == 8>;
using E = In::E;

inline void order(E& a, E& b, bool rising) {
  if (b < a == rising) std::swap(a, b);
}
// Pairs no more than 32 apart lie with one warp.
inline void settle(int j, int next) {
  if (j > 32 || next > 32) __syncthreads();
  else __syncwarp();
}

extern "C" __global__ void __launch_bounds__(threads)
    sort_short(const __grid_constant__ Rows r, const T* x, T* values, int64_t* places) {
  __shared__ E own[tile];
  const int padded = static_cast<int>(r.padded), shift = 31 - __clz(padded), n = static_cast<int>(r.n);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (tile >> shift);
  const bool descending = r.descending;
  int64_t from, to;
  for (int i = threadIdx.x; i < tile; i += threads) {
    const int64_t row = first + (i >> shift);
    const int at = i & (padded - 1);
    own[i] = In::of(~K(0), ~0u);  // behind all
    if (at >= n || row >= r.rows) continue;
    row_at(r, row, from, to);
    own[i] = In::of(Order::of(read_once(x + from + at * r.x_step), descending), at);
  }
  __syncthreads();
  for (int k = 2; k <= padded; k *= 2)
    for (int j = k / 2; j > 0; j /= 2) {
      const int t = threadIdx.x, i = 2 * (t & ~(j - 1)) + (t & (j - 1));
      order(own[i], own[i + j], (i & (padded - 1) & k) == 0);
      settle(j, j > 1 ? j / 2 : k);
    }
  __syncthreads();
  for (int i = threadIdx.x; i < tile; i += threads) {
    const int64_t row = first + (i >> shift);
    const int at = i & (padded - 1);
    if (at >= r.wanted || row >= r.rows) continue;
    const E* sorted = own + (i - at);
    int which = static_cast<int>(r.first) + at;
    if (r.middle && In::key(sorted[n - 1]) == Order::nan)
      for (which = n - 1; which > 0 && In::key(sorted[which - 1]) == Order::nan;) --which;
    const K key = In::key(sorted[which]);
    const uint32_t place = In::place(sorted[which]);
    row_at(r, row, from, to);
    values[to + at * r.y_step] =
        Order::tells(key, descending) ? Order::value(key, descending) : x[from + place * r.x_step];
    places[to + at * r.y_step] = place;
  }
}

}  // namespace flame
