// Up to 64 of the first of rows in order, each element read once: a block takes 4,096 of a row, and where a row has more, the
// next launch takes what the blocks gave. FLAME_T: the dtype.
#include "flame/ops/sort.cuh"

namespace flame {
using T = FLAME_T;
using Order = Keys<T>;
using K = Order::K;
constexpr int threads = 256, warps = threads / 32, items = 16, part = threads * items;  // as in DeviceTop
constexpr int room = 512;                                                               // elements compared with one another

struct Found {
  K key;
  uint32_t at;  // in the part
};
struct Shared {
  K best[threads];
  Found found[room];
  K limit;
  uint32_t count, met[items][warps];
};
inline int lane() { return threadIdx.x % 32; }
inline int warp() { return threadIdx.x / 32; }
inline K lesser(K a, K b) { return b < a ? b : a; }

// The k-th smallest of a warp's keys, from 1.
inline K kth_of_lanes(K key, int k) {
#pragma unroll
  for (int width = 2; width <= 32; width *= 2)
#pragma unroll
    for (int by = width / 2; by > 0; by /= 2) {
      const K other = __shfl_xor_sync(~0u, key, by);
      const bool keeps_less = ((lane() & by) == 0) == ((lane() & width) == 0);
      if (other < key == keeps_less) key = other;
    }
  return __shfl_sync(~0u, key, k - 1);
}
// The k-th smallest of `threads` keys, bit by bit from above, by one warp.
inline K kth_of_block(const K* keys, int k) {
  K own[threads / 32], limit = 0;
#pragma unroll
  for (int i = 0; i < threads / 32; ++i) own[i] = keys[i * 32 + lane()];
  for (int bit = Order::bits - 1; bit >= 0; --bit) {
    const K middle = limit | K(1) << bit;
    int less = 0;
#pragma unroll
    for (int i = 0; i < threads / 32; ++i) less += own[i] < middle;
    if (__reduce_add_sync(~0u, less) < k) limit = middle;
  }
  return limit;
}

// What a row has: elements of x, or the entries that blocks of the launch before gave.
struct Source {
  const T* x;
  const K* keys;
  const uint32_t* places;
  int64_t step;
  bool descending;
  K key(int64_t i) const { return keys ? keys[i] : Order::of(read_once(x + i * step), descending); }
};

// Many equal elements: the k-th key exactly, and of those equal to it the first.
inline void find_exactly(Shared& s, const K (&key)[items], int n, int k) {
  K limit = 0;
  for (int bit = Order::bits - 1; bit >= 0; --bit) {
    const K middle = limit | K(1) << bit;
    int less = 0;
#pragma unroll
    for (int i = 0; i < items; ++i) less += i * threads + static_cast<int>(threadIdx.x) < n && key[i] < middle;
    less = __reduce_add_sync(~0u, less);
    __syncthreads();
    if (lane() == 0) s.met[0][warp()] = less;
    __syncthreads();
    less = 0;
    for (int w = 0; w < warps; ++w) less += s.met[0][w];
    if (less < k) limit = middle;
  }
  __syncthreads();
  if (threadIdx.x == 0) s.count = 0;
  uint32_t equal[items];
#pragma unroll
  for (int i = 0; i < items; ++i) {
    equal[i] = __ballot_sync(~0u, i * threads + static_cast<int>(threadIdx.x) < n && key[i] == limit);
    if (lane() == 0) s.met[i][warp()] = __popc(equal[i]);
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < items; ++i)
    if (i * threads + static_cast<int>(threadIdx.x) < n && key[i] < limit)
      s.found[atomicAdd(&s.count, 1u)] = {key[i], i * threads + threadIdx.x};
  __syncthreads();
  uint32_t before = s.count;
#pragma unroll
  for (int i = 0; i < items; ++i) {
    uint32_t place = before + __popc(equal[i] & ((1u << lane()) - 1));
    for (int w = 0; w < warps; ++w) {
      const uint32_t here = s.met[i][w];
      before += here;
      if (w < warp()) place += here;
    }
    if (equal[i] >> lane() & 1 && place < k) s.found[place] = {limit, i * threads + threadIdx.x};
  }
  __syncthreads();
  if (threadIdx.x == 0) s.count = k;
  __syncthreads();
}

// Of each part of a row of n the k first: keys_out and places_out [rows, parts, k], or with one part the op's results.
extern "C" __global__ void __launch_bounds__(threads, 1)
    top(const __grid_constant__ Rows r, const T* x, const K* keys, const uint32_t* places, int64_t n, int64_t parts,
        K* keys_out, uint32_t* places_out, T* values, int64_t* indices) {
  __shared__ Shared s;
  const int k = static_cast<int>(r.first + r.wanted), skipped = static_cast<int>(r.first);
  const int64_t row = blockIdx.x / parts, which = blockIdx.x % parts, first = which * n / parts;
  const int here = static_cast<int>((which + 1) * n / parts - first);
  int64_t from, to;
  row_at(r, row, from, to);
  const bool descending = r.descending;
  const Source source{x + from + first * r.x_step, keys ? keys + row * n + first : nullptr,
                      keys ? places + row * n + first : nullptr, r.x_step, descending};
  K key[items], best = Order::all;
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const int at = i * threads + threadIdx.x;
    key[i] = at < here ? source.key(at) : Order::all;
  }
  if (threadIdx.x == 0) s.count = 0;
#pragma unroll
  for (int i = 0; i < items; ++i) best = lesser(best, key[i]);
  // No more than the k-th best of groups of elements can be the k-th best of all.
  K limit;
  if (k <= 16) {
    K group = best;
    for (int by = 1; by < 8; by *= 2) group = lesser(group, __shfl_xor_sync(~0u, group, by));
    if (lane() % 8 == 0) s.best[threadIdx.x / 8] = group;
    __syncthreads();
    limit = kth_of_lanes(s.best[lane()], k);
  } else {
    s.best[threadIdx.x] = best;
    __syncthreads();
    if (warp() == 0) {
      const K found = kth_of_block(s.best, k);
      if (lane() == 0) s.limit = found;
    }
    __syncthreads();
    limit = s.limit;
  }
  if (best <= limit) {
#pragma unroll
    for (int i = 0; i < items; ++i) {
      const int at = i * threads + threadIdx.x;
      if (key[i] <= limit && at < here) {
        const uint32_t to = atomicAdd(&s.count, 1u);
        if (to < room) s.found[to] = {key[i], static_cast<uint32_t>(at)};
      }
    }
  }
  __syncthreads();
  if (s.count > room) find_exactly(s, key, here, k);
  const int count = static_cast<int>(s.count);
  const int64_t out = blockIdx.x * static_cast<int64_t>(k);
  for (int i = threadIdx.x; i < count; i += threads) {
    const Found own = s.found[i];
    int rank = 0;
    for (int j = 0; j < count; ++j) {
      const Found other = s.found[j];
      rank += other.key < own.key || (other.key == own.key && other.at < own.at);
    }
    if (rank >= k) continue;
    const uint32_t place = keys ? source.places[own.at] : static_cast<uint32_t>(first + own.at);
    if (parts > 1) {
      keys_out[out + rank] = own.key;
      places_out[out + rank] = place;
    } else if (rank >= skipped) {
      values[to + (rank - skipped) * r.y_step] = x[from + place * r.x_step];
      indices[to + (rank - skipped) * r.y_step] = place;
    }
  }
}

}  // namespace flame
