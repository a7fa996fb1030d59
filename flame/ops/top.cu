// Up to 64 of the first of rows in order, each element read once: a block takes 4,096 of a row, and where a row has more, the
// next launch takes what the blocks gave. FLAME_T: the dtype; FLAME_DENSE: whether the elements of a row are neighbours.
#include "flame/ops/sort.cuh"

namespace flame {
using T = FLAME_T;
using Order = Keys<T>;
using K = Order::K;
constexpr int threads = 256, warps = threads / 32, items = 16;  // as in sort_device.cpp
constexpr int blocks = sizeof(T) == 8 ? 4 : 6;                  // at a time
constexpr int room = 512;                                       // elements compared with one another

struct Found {
  K key;
  uint32_t at;  // in the part
};
struct Shared {
  K best[threads];
  Found found[room];
  K limit;
  uint32_t count, met[warps];
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

// Where a part of a row lies: elements of x, or the entries that blocks of the launch before gave.
struct Elements {
  using Raw = T;
  const T* x;
  int64_t step;
  uint32_t first;
  bool descending;
  T raw(int at) const { return read_once(FLAME_DENSE ? x + at : x + at * step); }
  Elements from(int at) const { return {settled(FLAME_DENSE ? x + at : x + at * step), step, first, descending}; }
  K key(T v) const { return Order::of(v, descending); }
  uint32_t place(uint32_t at) const { return first + at; }
};
struct Entries {
  using Raw = K;
  const K* keys;
  const uint32_t* places;
  K raw(int at) const { return keys[at]; }
  Entries from(int at) const { return {keys + at, places}; }
  K key(K key) const { return key; }
  uint32_t place(uint32_t at) const { return places[at]; }
};

// The sum over a block of what threads count.
inline int sum_of_block(Shared& s, int own) {
  own = __reduce_add_sync(~0u, own);
  __syncthreads();
  if (lane() == 0) s.met[warp()] = own;
  __syncthreads();
  return __reduce_add_sync(~0u, lane() < warps ? s.met[lane()] : 0u);
}
// Many equal elements: the k-th key exactly, and of those equal to it the first. The part is read again and again.
template <class Source>
void find_exactly(Shared& s, const Source& source, int n, int k) {
  K limit = 0;
#pragma unroll 1
  for (int bit = Order::bits - 1; bit >= 0; --bit) {
    const K middle = limit | K(1) << bit;
    int less = 0;
#pragma unroll 4
    for (int at = threadIdx.x; at < n; at += threads) less += source.key(source.raw(at)) < middle;
    if (sum_of_block(s, less) < k) limit = middle;
  }
  if (threadIdx.x == 0) s.count = 0;
  __syncthreads();
  for (int at = threadIdx.x; at < n; at += threads) {
    const K key = source.key(source.raw(at));
    if (key < limit) s.found[atomicAdd(&s.count, 1u)] = {key, static_cast<uint32_t>(at)};
  }
  __syncthreads();
  uint32_t before = s.count;
#pragma unroll 1
  for (int first = 0; first < n && before < k; first += threads) {
    const int at = first + threadIdx.x;
    const uint32_t equal = __ballot_sync(~0u, at < n && source.key(source.raw(at)) == limit);
    __syncthreads();
    if (lane() == 0) s.met[warp()] = __popc(equal);
    __syncthreads();
    const uint32_t met = lane() < warps ? s.met[lane()] : 0u;
    const uint32_t place =
        before + __reduce_add_sync(~0u, lane() < warp() ? met : 0u) + __popc(equal & ((1u << lane()) - 1));
    if (equal >> lane() & 1 && place < k) s.found[place] = {limit, static_cast<uint32_t>(at)};
    before += __reduce_add_sync(~0u, met);
  }
  __syncthreads();
  if (threadIdx.x == 0) s.count = k;
  __syncthreads();
}

// No less than the k-th key of the part, and mostly not much more: the k-th best of groups of elements.
inline K limit_of(Shared& s, K best, int k) {
  const int groups = k <= 16 ? 32 : threads;
  if (groups == 32) {
#pragma unroll
    for (int by = 1; by < threads / 32; by *= 2) best = lesser(best, __shfl_xor_sync(~0u, best, by));
    if (lane() % (threads / 32) == 0) s.best[threadIdx.x / (threads / 32)] = best;
  } else {
    s.best[threadIdx.x] = best;
  }
  __syncthreads();
  if (warp() == 0) {
    const K found = groups == 32 ? kth_of_lanes(s.best[lane()], k) : kth_of_block(s.best, k);
    if (lane() == 0) s.limit = found;
  }
  __syncthreads();
  return s.limit;
}
// Calls put(rank, key, place in the part) for the k first of n, in no order.
template <class Source, class Put>
void find(Shared& s, const Source& source, int n, int k, const Put& put) {
  const int left = n - static_cast<int>(threadIdx.x);
  K key[items], best = Order::all;
  {
    const Source own = source.from(threadIdx.x);
    typename Source::Raw raw[items];
    if (n == items * threads) {  // all reads on the way, none asks whether it may
#pragma unroll
      for (int i = 0; i < items; ++i) raw[i] = own.raw(i * threads);
#pragma unroll
      for (int i = 0; i < items; ++i) key[i] = source.key(raw[i]);
    } else {
#pragma unroll
      for (int i = 0; i < items; ++i)
        if (i * threads < left) raw[i] = own.raw(i * threads);
#pragma unroll
      for (int i = 0; i < items; ++i) key[i] = i * threads < left ? source.key(raw[i]) : Order::all;
    }
  }
  if (threadIdx.x == 0) s.count = 0;
#pragma unroll
  for (int i = 0; i < items; ++i) best = lesser(best, key[i]);
  const K limit = limit_of(s, best, k);
  if (best <= limit) {
#pragma unroll
    for (int i = 0; i < items; ++i) {
      if (key[i] > limit || i * threads >= left) continue;
      const uint32_t to = atomicAdd(&s.count, 1u);
      if (to < room) s.found[to] = {key[i], i * threads + threadIdx.x};
    }
  }
  __syncthreads();
  if (s.count > room) find_exactly(s, source, n, k);
  const int count = static_cast<int>(s.count);
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += threads) {
    const Found own = s.found[i];
    int rank = 0;
    for (int j = 0; j < count; ++j) {
      const Found other = s.found[j];
      rank += other.key < own.key || (other.key == own.key && other.at < own.at);
    }
    if (rank < k) put(rank, own.key, source.place(own.at));
  }
}

// The k first of each part of a row of n: keys_out and places_out [rows, parts, k], or with one part the op's results.
struct Results {
  K* keys;
  uint32_t* places;
  T* values;
  int64_t* indices;
};
template <class Source>
void find_part(Shared& s, const Rows& r, const T* x, const Source& source, int n, int64_t from, int64_t to, bool last,
               const Results& out) {
  const int k = static_cast<int>(r.first + r.wanted), skipped = static_cast<int>(r.first);
  const bool descending = r.descending;
  find(s, source, n, k, [&](int rank, K key, uint32_t place) {
    if (!last) {
      out.keys[blockIdx.x * static_cast<int64_t>(k) + rank] = key;
      out.places[blockIdx.x * static_cast<int64_t>(k) + rank] = place;
    } else if (rank >= skipped) {
      const int64_t at = to + (rank - skipped) * r.y_step;
      out.values[at] = Order::tells(key, descending) ? Order::value(key, descending) : x[from + place * r.x_step];
      out.indices[at] = place;
    }
  });
}

// How rows fall into parts, of which the first `more` have one element more than `each`.
struct Parts {
  uint32_t parts, each, more;
};
struct Part {
  int64_t row, first;
  int count;
  explicit Part(const Parts& p) : row(blockIdx.x), first(0), count(static_cast<int>(p.each)) {
    if (p.parts == 1) return;
    const uint32_t which = blockIdx.x % p.parts;
    row = blockIdx.x / p.parts;
    first = static_cast<int64_t>(which) * p.each + (which < p.more ? which : p.more);
    count = static_cast<int>(p.each + (which < p.more));
  }
};
extern "C" __global__ void __launch_bounds__(threads, blocks)
    top(const __grid_constant__ Rows r, const T* x, const __grid_constant__ Parts p,
        const __grid_constant__ Results out) {
  __shared__ Shared s;
  const Part part(p);
  int64_t from, to;
  row_at(r, part.row, from, to);
  const Elements source{x + from + part.first * r.x_step, r.x_step, static_cast<uint32_t>(part.first),
                        r.descending != 0};
  find_part(s, r, x, source, part.count, from, to, p.parts == 1, out);
}
// Of rows of n entries.
extern "C" __global__ void __launch_bounds__(threads)
    top_of_parts(const __grid_constant__ Rows r, const T* x, const __grid_constant__ Parts p,
                 const __grid_constant__ Results out, const K* keys, const uint32_t* places, int64_t n) {
  __shared__ Shared s;
  const Part part(p);
  int64_t from, to;
  row_at(r, part.row, from, to);
  const Entries source{keys + part.row * n + part.first, places + part.row * n + part.first};
  find_part(s, r, x, source, part.count, from, to, p.parts == 1, out);
}

}  // namespace flame
