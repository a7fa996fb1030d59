// A block a row, sorted on the way from memory to memory. Keys of 16 bits and more are spread over as many buckets as there are
// elements, as evenly as a histogram of their upper bits allows, and ordered by comparison within a bucket. Where many share
// a bucket, and for bytes, digits of eight bits follow one another, stably. FLAME_T: the dtype; FLAME_THREADS: of a
// block; FLAME_DENSE: whether the elements of a row are neighbours.
#include "flame/fuse/block_scan.cuh"
#include "flame/ops/sort.cuh"

namespace flame {
using T = FLAME_T;
using Order = Keys<T>;
using K = Order::K;
constexpr int items = sizeof(T) == 8 ? 8 : 16;  // as in sort_device.cpp
constexpr int threads = FLAME_THREADS, warps = threads / 32, room = threads * items;
constexpr int blocks = 1024 / threads;  // at a time
constexpr int digits = 256, bins = 1024, most = 32;               // elements of a bucket
constexpr int beyond = 4;                                         // entries after a row's last that count as greater
constexpr bool wide = sizeof(K) == 8, bucketed = sizeof(T) >= 2;

template <int bytes>
struct Entries {  // key and place in one word
  using E = typename KeyOf<2 * bytes>::type;
  static constexpr int half = 4 * sizeof(E);
  E e[room + beyond];
  static E entry(K key, uint32_t place) { return static_cast<E>(key) << half | place; }
  void put(int i, K key, uint32_t place) { e[i] = entry(key, place); }
  bool less(int i, K key, uint32_t place) const { return e[i] < entry(key, place); }
  K key(int i) const { return static_cast<K>(e[i] >> half); }
  uint32_t place(int i) const { return static_cast<uint32_t>(e[i] & (E(1) << half) - 1); }
};
template <>
struct Entries<8> {
  K keys[room + beyond];
  uint16_t places[room + beyond];
  void put(int i, K key, uint32_t place) {
    keys[i] = key;
    places[i] = static_cast<uint16_t>(place);
  }
  bool less(int i, K key, uint32_t place) const { return keys[i] < key || (keys[i] == key && places[i] < place); }
  K key(int i) const { return keys[i]; }
  uint32_t place(int i) const { return places[i]; }
};
// What buckets need beside the entries.
template <bool>
struct Buckets {
  uint32_t bins[flame::bins];  // elements before a bin << 16 | in it
  uint32_t buckets[room / 2];  // two of 16 bits in a word: elements in a bucket, then before it
  void clear() {
    for (int i = threadIdx.x; i < flame::bins; i += threads) bins[i] = 0;
    for (int i = threadIdx.x; i < room / 2; i += threads) buckets[i] = 0;
  }
};
template <>
struct Buckets<false> {
  void clear() {}
};
struct Shared : Buckets<bucketed> {
  union {
    Entries<sizeof(T)> entries;
    uint16_t met[warps][digits];
  };
  uint32_t start[digits], totals[32];
  K any[warps], all[warps];
};

inline int lane() { return threadIdx.x % 32; }
inline int warp() { return threadIdx.x / 32; }
// A warp's items are neighbours in the row.
inline int item_at(int i) { return warp() * 32 * items + i * 32 + lane(); }

// The sum over the threads before this one; `totals` is free again after the next barrier but one.
inline uint32_t sum_of_before(uint32_t own, uint32_t* totals) {
  uint32_t through = own;
  for (int by = 1; by < 32; by *= 2) {
    const uint32_t left = __shfl_up_sync(~0u, through, by);
    if (lane() >= by) through += left;
  }
  if (lane() == 31) totals[warp()] = through;
  __syncthreads();
  return __reduce_add_sync(~0u, lane() < warp() ? totals[lane()] : 0u) + through - own;
}

// The bits in which keys differ.
inline K varying(Shared& s, const K (&key)[items], int n) {
  K any = 0, all = ~K(0);
#pragma unroll
  for (int i = 0; i < items; ++i)
    if (item_at(i) < n) any |= key[i], all &= key[i];
  if constexpr (wide) {
    for (int by = 16; by > 0; by /= 2) any |= __shfl_xor_sync(~0u, any, by), all &= __shfl_xor_sync(~0u, all, by);
  } else {
    any = __reduce_or_sync(~0u, any);
    all = __reduce_and_sync(~0u, all);
  }
  if (lane() == 0) s.any[warp()] = any, s.all[warp()] = all;
  __syncthreads();
  for (int w = 0; w < warps; ++w) any |= s.any[w], all &= s.all[w];
  return any & ~all;
}

// Writes the element that is `at`-th in order.
struct Out {
  const Rows& r;
  const T* x;  // the row's
  T* values;
  int64_t* places;
  int first;
  void operator()(int at, K key, uint32_t place) const {
    const uint32_t i = static_cast<uint32_t>(at - first);
    if (i >= static_cast<uint32_t>(r.wanted)) return;
    const bool descending = r.descending;
    const T v = Order::tells(key, descending) ? Order::value(key, descending) : x[place * r.x_step];
    if (FLAME_DENSE) {
      values[i] = v;
      places[i] = place;
    } else {
      values[i * r.y_step] = v;
      places[i * r.y_step] = place;
    }
  }
};

// Bits of a key below a bin's, and how far from the top its bin begins.
struct Spread {
  int lead;
  uint32_t bin(K key) const {
    const K k = key << lead;
    return static_cast<uint32_t>(k >> (8 * sizeof(K) - 10));
  }
  // As many buckets as elements; a bin's elements share as many as they are.
  uint32_t bucket(K key, const uint32_t* bins) const {
    const K k = key << lead;
    const uint32_t bin = bins[k >> (8 * sizeof(K) - 10)];
    const uint32_t below = static_cast<uint32_t>(k << 10 >> (8 * sizeof(K) - 32));
    return (bin >> 16) + __umulhi(below, bin & 0xffff);
  }
};

// Whether no bucket was too full, so that the row is written. A template, since short keys have no buckets.
template <class S>
bool by_buckets(S& s, const K (&key)[items], int n, K vary, const Out& out) {
  const Spread spread{vary == 0 ? 0 : wide ? __clzll(static_cast<int64_t>(vary)) : __clz(static_cast<int>(vary))};
#pragma unroll
  for (int i = 0; i < items; ++i)
    if (item_at(i) < n) atomicAdd(&s.bins[spread.bin(key[i])], 1u);
  __syncthreads();
  {
    constexpr int each = bins / threads;
    static_assert(each > 0, "a bin or more a thread");
    uint32_t own[each], sum = 0;
#pragma unroll
    for (int i = 0; i < each; ++i) sum += own[i] = s.bins[threadIdx.x * each + i];
    uint32_t before = sum_of_before(sum, s.totals);
#pragma unroll
    for (int i = 0; i < each; ++i) {
      s.bins[threadIdx.x * each + i] = before << 16 | own[i];
      before += own[i];
    }
  }
  __syncthreads();
  uint32_t where[items];  // bucket, and how many came before; reads and writes of shared memory do not alternate
#pragma unroll
  for (int i = 0; i < items; ++i)
    if (item_at(i) < n) where[i] = spread.bucket(key[i], s.bins);
#pragma unroll
  for (int i = 0; i < items; ++i)
    if (item_at(i) < n) {
      const uint32_t half = where[i] % 2 * 16;
      where[i] = where[i] << 16 | (atomicAdd(&s.buckets[where[i] / 2], 1u << half) >> half & 0xffff);
    }
  __syncthreads();
  bool full = false;
  {
    uint32_t own[items / 2], sum = 0;
#pragma unroll
    for (int i = 0; i < items / 2; ++i) {
      own[i] = s.buckets[threadIdx.x * (items / 2) + i];
      full |= (own[i] & 0xffff) > most || own[i] >> 16 > most;
      sum += (own[i] & 0xffff) + (own[i] >> 16);
    }
    uint32_t before = sum_of_before(sum, s.totals);
#pragma unroll
    for (int i = 0; i < items / 2; ++i) {
      const uint32_t second = before + (own[i] & 0xffff);
      s.buckets[threadIdx.x * (items / 2) + i] = before | second << 16;
      before = second + (own[i] >> 16);
    }
  }
  if (__syncthreads_or(full)) return false;
  const uint16_t* starts = reinterpret_cast<const uint16_t*>(s.buckets);
#pragma unroll
  for (int i = 0; i < items; ++i)
    if (item_at(i) < n) where[i] = starts[where[i] >> 16] + (where[i] & 0xffff);
#pragma unroll
  for (int i = 0; i < items; ++i)
    if (item_at(i) < n) s.entries.put(where[i], key[i], item_at(i));
  if (threadIdx.x < beyond) s.entries.put(n + threadIdx.x, ~K(0), 0xffffu);
  __syncthreads();
  constexpr int together = 4;
#pragma unroll 1
  for (int first = threadIdx.x; first < n; first += together * threads) {
    K own[together];
    uint32_t place[together];
    int at[together], end[together];
#pragma unroll
    for (int i = 0; i < together; ++i) {
      const int j = first + i * threads < n ? first + i * threads : first;
      own[i] = s.entries.key(j);
      place[i] = s.entries.place(j);
    }
#pragma unroll
    for (int i = 0; i < together; ++i) {
      const uint32_t b = spread.bucket(own[i], s.bins);
      at[i] = starts[b];
      end[i] = b + 1 < room ? starts[b + 1] : n;
    }
#pragma unroll
    for (int i = 0; i < together; ++i) {
      if (first + i * threads >= n) break;
#pragma unroll 1
      for (int m = at[i]; m < end[i]; m += beyond) {  // what comes after a bucket is greater
#pragma unroll
        for (int k = 0; k < beyond; ++k) at[i] += s.entries.less(m + k, own[i], place[i]);
      }
      out(at[i], own[i], place[i]);
    }
  }
  return true;
}

template <bool can, class S>
bool written_by_buckets(S& s, const K (&key)[items], int n, K vary, const Out& out) {
  if constexpr (can) return by_buckets(s, key, n, vary, out);
  else return false;
}

// at[i]: above 16 bits, where item i goes by a digit. A warp takes 32 neighbours at a time, so entries of one digit are met in order.
inline void by_digit(Shared& s, const K (&key)[items], int n, int shift, uint32_t (&at)[items]) {
  for (int i = threadIdx.x; i < warps * digits / 2; i += threads) reinterpret_cast<uint32_t*>(s.met)[i] = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const bool here = item_at(i) < n;
    const uint32_t d = static_cast<uint32_t>(key[i] >> shift) & (digits - 1);
    uint32_t equal = __ballot_sync(~0u, here);
    if (!here) equal = ~equal;
#pragma unroll
    for (int b = 0; b < 8; ++b) {
      const uint32_t ones = __ballot_sync(~0u, d >> b & 1);
      equal &= d >> b & 1 ? ones : ~ones;
    }
    const uint32_t before = equal & ((1u << lane()) - 1), so_far = s.met[warp()][d];
    at[i] = at[i] & 0xffff | so_far + __popc(before) << 16;
    __syncwarp();
    if (here && before == 0) s.met[warp()][d] = static_cast<uint16_t>(so_far + __popc(equal));
    __syncwarp();
  }
  __syncthreads();
  if constexpr (threads >= digits) {
    uint32_t own = 0;
    if (threadIdx.x < digits)
      for (int w = 0; w < warps; ++w) {
        const uint32_t here = s.met[w][threadIdx.x];
        s.met[w][threadIdx.x] = static_cast<uint16_t>(own);
        own += here;
      }
    own = sum_of_before(own, s.totals);
    if (threadIdx.x < digits) s.start[threadIdx.x] = own;
  } else {
    constexpr int each = threads < digits ? digits / threads : 1;
    uint32_t own[each], sum = 0;
#pragma unroll
    for (int i = 0; i < each; ++i) {
      own[i] = 0;
      for (int w = 0; w < warps; ++w) {
        const uint32_t here = s.met[w][threadIdx.x * each + i];
        s.met[w][threadIdx.x * each + i] = static_cast<uint16_t>(own[i]);
        own[i] += here;
      }
      sum += own[i];
    }
    uint32_t before = sum_of_before(sum, s.totals);
#pragma unroll
    for (int i = 0; i < each; ++i) {
      s.start[threadIdx.x * each + i] = before;
      before += own[i];
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const uint32_t d = static_cast<uint32_t>(key[i] >> shift) & (digits - 1);
    at[i] += s.start[d] + s.met[warp()][d] << 16;
  }
  __syncthreads();
}
// Passes over digits in which all keys are equal are left out.
inline void by_digits(Shared& s, K (&key)[items], int n, K vary, const Out& out) {
  uint32_t at[items];  // place, and above it where to
#pragma unroll
  for (int i = 0; i < items; ++i) at[i] = item_at(i);
#pragma unroll 1
  for (int shift = 0; shift < Order::bits; shift += 8) {
    __syncthreads();
    if ((vary >> shift & 0xff) == 0) continue;
    by_digit(s, key, n, shift, at);
#pragma unroll
    for (int i = 0; i < items; ++i)
      if (item_at(i) < n) s.entries.put(at[i] >> 16, key[i], at[i] & 0xffff);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < items; ++i)
      if (item_at(i) < n) {
        key[i] = s.entries.key(item_at(i));
        at[i] = s.entries.place(item_at(i));
      }
  }
#pragma unroll
  for (int i = 0; i < items; ++i)
    if (item_at(i) < n) out(item_at(i), key[i], at[i]);
}

extern "C" __global__ void __launch_bounds__(threads, blocks)
    sort_row(const __grid_constant__ Rows r, const T* x, T* values, int64_t* places) {
  __shared__ Shared s;
  int64_t from, to;
  row_at(r, blockIdx.x, from, to);
  const int n = static_cast<int>(r.n);
  const bool descending = r.descending;
  Out out{r, x + from, values + to, places + to, static_cast<int>(r.first)};
  K key[items];
  {
    const int64_t step = FLAME_DENSE ? 1 : r.x_step;
    const T* mine = settled(x + from + item_at(0) * step);
    T own[items];
    if (n == room) {  // all reads on the way, none asks whether it may
#pragma unroll
      for (int i = 0; i < items; ++i) own[i] = read_once(mine + i * 32 * step);
    } else {
#pragma unroll
      for (int i = 0; i < items; ++i)
        if (item_at(i) < n) own[i] = read_once(mine + i * 32 * step);
    }
    s.clear();
#pragma unroll
    for (int i = 0; i < items; ++i) key[i] = item_at(i) < n ? Order::of(own[i], descending) : K(0);
  }
  if (r.middle) {
    int nans = 0;
#pragma unroll
    for (int i = 0; i < items; ++i) nans += __syncthreads_count(item_at(i) < n && key[i] == Order::nan);
    if (nans > 0) out.first = n - nans;
  }
  const K vary = varying(s, key, n);
  if (written_by_buckets<bucketed>(s, key, n, vary, out)) return;
  by_digits(s, key, n, vary, out);
}

}  // namespace flame
