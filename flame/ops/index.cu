// Reading and writing by index tensors. Entries that meet at one place are brought together by a stable sort and combined in
// the order of the index, so results are the same each time; runs of 256 entries of one place are summed up beforehand.
#include "flame/ops/index_walk.cuh"

namespace flame {
#if defined(FLAME_BEHIND)
extern "C" __global__ void __launch_bounds__(256) index_behind(int64_t n, const T* from, T* out) {
  const int64_t i = global_thread();
  if (i < n) out[i] = convert<T>(plus(widen(from[i]), widen(out[i])));
}
#elif defined(FLAME_GET)
// A thread reads several elements, so that their indices, and then they, are on the way together.
constexpr int own = 4;  // as in index_device.cpp
#if FLAME_FLAT == 2
// Without a branch around a read: what is beyond the end reads the last element.
extern "C" __global__ void __launch_bounds__(256) index_get(const __grid_constant__ Walk w, const T* x, T* out) {
  const U n = static_cast<U>(w.slice), total = static_cast<U>(w.entries) * n,
          first = blockIdx.x * 256 * own + threadIdx.x;
  U element[own];
  int64_t k[own];
#pragma unroll
  for (int u = 0; u < own; ++u) {
    const U at = min(first + u * 256, total - 1), b = at / n;
    element[u] = at - b * n;
    k[u] = __ldg(w.index[0] + b);
  }
  T v[own];
#pragma unroll
  for (int u = 0; u < own; ++u) {
    const int64_t place = w.wraps && k[u] < 0 ? k[u] + w.size[0] : k[u];
    const bool good = static_cast<uint64_t>(place) < static_cast<uint64_t>(w.size[0]);
    if (!good) bad_index(w, 0, k[u]);
    const int64_t big =
        static_cast<int64_t>(static_cast<int32_t>(place)) * static_cast<int32_t>(w.step[0]) + element[u];
    v[u] = good ? __ldg(x + big) : T{};
  }
#pragma unroll
  for (int u = 0; u < own; ++u)
    if (first + u * 256 < total) __stcs(out + first + u * 256, v[u]);
}
#else
extern "C" __global__ void __launch_bounds__(256) index_get(const __grid_constant__ Walk w, const T* x, T* out) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 256 * own + threadIdx.x;
  Place p[own];  // small -1: none
  int64_t given[own][axes];
#pragma unroll
  for (int u = 0; u < own; ++u) {
    I b, element;
    p[u].small = -1;
    if (!part_of(w, first + u * 256, w.entries, b, element)) continue;
    Entry e = entry_of<false>(w, b);
    add_slice(w, element, e.place.big, e.place.small);
    p[u] = e.place;
#pragma unroll
    for (int j = 0; j < axes; ++j) given[u][j] = __ldg(w.index[j] + e.from[j]);
  }
  T v[own];
#pragma unroll
  for (int u = 0; u < own; ++u) {
    v[u] = T{};
    if (p[u].small < 0) continue;
#pragma unroll
    for (int j = 0; j < axes; ++j) point<false>(w, j, given[u][j], p[u]);
    if (p[u].key >= 0) v[u] = __ldg(x + p[u].big);
  }
#pragma unroll
  for (int u = 0; u < own; ++u)
    if (p[u].small >= 0) __stcs(out + p[u].small, v[u]);
}
#endif
#elif defined(FLAME_ASSIGN)
// Places that come once.
extern "C" __global__ void __launch_bounds__(256) index_assign(const __grid_constant__ Walk w, const T* value, T* out) {
  I b, element;
  if (!my_part(w, w.entries, b, element)) return;
  Place p = place_of<false>(w, b);
  if (p.key < 0) return;
  add_slice(w, element, p.big, p.small);
  out[p.big] = value[p.small];
}
// The last entry of every place, counted from 1, and what it writes.
extern "C" __global__ void __launch_bounds__(256) index_last(const __grid_constant__ Walk w, uint32_t* last) {
  const int64_t i = global_thread();
  if (i >= w.entries) return;
  const Place p = place_of<true>(w, static_cast<I>(i));
  if (p.key >= 0) atomicMax(&last[p.key], static_cast<uint32_t>(i) + 1);
}
extern "C" __global__ void __launch_bounds__(256)
    index_put_last(const __grid_constant__ Walk w, const uint32_t* last, const T* value, T* out) {
  I b, element;
  if (!my_part(w, w.entries, b, element)) return;
  Place p = place_of<true>(w, b);
  if (p.key < 0 || last[p.key] != static_cast<uint32_t>(b) + 1) return;
  add_slice(w, element, p.big, p.small);
  out[p.big] = value[p.small];
}
#else
inline K note(const Walk& w, int64_t i, K* keys, uint32_t* entries) {
  const Place p = place_of<true>(w, static_cast<I>(i));
  const K key = static_cast<K>(p.key < 0 ? w.places : p.key);  // bad ones come last
  keys[i] = key;
  entries[i] = static_cast<uint32_t>(i);
  return key;
}
#if defined(FLAME_FEW)
// A block counts the digits of a tile as well: as radix_first.
extern "C" __global__ void __launch_bounds__(256)
    index_keys(const __grid_constant__ Walk w, K* keys, uint32_t* entries, uint32_t* counts, int passes) {
  __shared__ uint32_t own[256];
  own[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * 1024 + j * 256 + threadIdx.x;
    if (i < w.entries) atomicAdd(&own[note(w, i, keys, entries) & 255], 1u);
  }
  __syncthreads();
  for (int64_t pass = 0; pass < passes; ++pass)
    counts[(pass * gridDim.x + blockIdx.x) * 256 + threadIdx.x] = pass == 0 ? own[threadIdx.x] : 0;
}
#else
extern "C" __global__ void __launch_bounds__(256)
    index_keys(const __grid_constant__ Walk w, K* keys, uint32_t* entries) {
  const int64_t i = global_thread();
  if (i < w.entries) note(w, i, keys, entries);
}
#endif

// [runs, slice]: what a run of entries comes to, if they all have one place.
extern "C" __global__ void __launch_bounds__(256)
    index_runs(const __grid_constant__ Walk w, const K* keys, const uint32_t* entries, const T* value, C* runs) {
  I r, element;
  if (!my_part(w, w.entries / run, r, element)) return;
  const int64_t first = r * run;
  const K key = keys[first];
  if (key >= static_cast<K>(w.places) || !whole_run(w, keys, first, key)) return;
  int64_t big = 0, beside = 0;
  add_slice(w, element, big, beside);
  C e = widen(value[small_of(w, static_cast<I>(entries[first])) + beside]);
  for (int64_t i = 1; i < run; ++i) e = combine(e, value[small_of(w, static_cast<I>(entries[first + i])) + beside]);
  runs[r * w.slice + element] = e;
}
// The first entry of a place takes all of its entries.
extern "C" __global__ void __launch_bounds__(256)
    index_combine(const __grid_constant__ Walk w, const K* keys, const uint32_t* entries, const T* value, const C* runs,
                  T* out) {
  I first, element;
  if (!my_part(w, w.entries, first, element)) return;
  const K key = keys[first];
  if (key >= static_cast<K>(w.places) || (first > 0 && keys[first - 1] == key)) return;
  Place p = place_of<true>(w, static_cast<I>(entries[first]));
  int64_t beside = 0;
  add_slice(w, element, p.big, beside);
  C e = widen(out[p.big]);
  for (int64_t i = first; i < w.entries && keys[i] == key;)
    if (whole_run(w, keys, i, key)) {
      const int64_t end = i + run * whole_runs(w, keys, i, key);
#pragma unroll 8
      for (int64_t r = i / run; r < end / run; ++r) e = FLAME_COMBINE::of(e, runs[r * w.slice + element]);
      i = end;
    } else {
      e = combine(e, value[small_of(w, static_cast<I>(entries[i])) + beside]);
      ++i;
    }
  out[p.big] = convert<T>(e);
}
#endif

}  // namespace flame
