// Reading and writing by index tensors. Entries that meet at one place are brought together by a stable sort and combined in
// the order of the index, so results are the same each time; runs of 256 entries of one place are summed up beforehand.
// FLAME_T: the dtype, or an integer of its size where numbers only move. FLAME_INDEX: int32_t where all counts fit; FLAME_AXES: how many
// index tensors there are.
#include "flame/device/fault.cuh"
#include "flame/fuse/scalar_math.h"

namespace flame {
using namespace kernels;
using T = FLAME_T;
using I = FLAME_INDEX;

// As in device_index_internal.h.
struct Walk {
  const char* op;
  int64_t entries, slice, places, axes, at_rank, slice_rank, wraps;
  int64_t size[8], step[8], key[8], name[8];
  int64_t at[8], small_at[8], big_at[8], key_at[8], index_at[8][8];
  int64_t rest[8], small_rest[8], big_rest[8];
  const int64_t* index[8];
  int64_t place_rank, place_size[8], place_step[8], covers;
};
struct Place {
  int64_t big, small, key;  // key -1: a bad index
};
inline int64_t small_of(const Walk& w, I b) {
  int64_t small = 0;
  each_axis(b, w.at_rank, w.at, [&](int i, int64_t k) { small += k * w.small_at[i]; });
  return small;
}
constexpr int axes = FLAME_AXES;
__noinline__ void bad_index(const Walk& w, int j, int64_t given) {
  report_bad_index(w.op, given, w.name[j], w.size[j]);
}
// Where an entry is, but for its index; and where that is.
struct Entry {
  Place place;
  int64_t from[axes];
};
template <bool keyed>
Entry entry_of(const Walk& w, I b) {
  Entry e{};
  each_axis(b, w.at_rank, w.at, [&](int i, int64_t k) {
    e.place.small += k * w.small_at[i];
    e.place.big += k * w.big_at[i];
    if constexpr (keyed) e.place.key += k * w.key_at[i];
#pragma unroll
    for (int j = 0; j < axes; ++j) e.from[j] += k * w.index_at[j][i];
  });
  return e;
}
template <bool keyed>
void point(const Walk& w, int j, int64_t given, Place& p) {
  const int64_t k = w.wraps && given < 0 ? given + w.size[j] : given;
  if (k < 0 || k >= w.size[j]) {
    bad_index(w, j, given);
    p.key = -1;
  } else if (p.key >= 0) {
    p.big += k * w.step[j];
    if constexpr (keyed) p.key += k * w.key[j];
  }
}
template <bool keyed>
Place place_of(const Walk& w, I b) {
  Entry e = entry_of<keyed>(w, b);
#pragma unroll
  for (int j = 0; j < axes; ++j) point<keyed>(w, j, w.index[j][e.from[j]], e.place);
  return e.place;
}
inline void add_slice(const Walk& w, I element, int64_t& big, int64_t& small) {
  each_axis(element, w.slice_rank, w.rest, [&](int i, int64_t k) {
    small += k * w.small_rest[i];
    big += k * w.big_rest[i];
  });
}
// An entry and an element of its slice, from the thread's number; false beyond the last.
inline bool part_of(const Walk& w, int64_t i, int64_t entries, I& b, I& element) {
  if (i >= entries * w.slice) return false;
  const I n = static_cast<I>(w.slice);
  b = n == 1 ? static_cast<I>(i) : static_cast<I>(i) / n;
  element = static_cast<I>(i) - b * n;
  return true;
}
inline bool my_part(const Walk& w, int64_t entries, I& b, I& element) {
  return part_of(w, global_thread(), entries, b, element);
}

#if defined(FLAME_GET)
// A thread reads several elements, so that their indices, and then they, are on the way together.
constexpr int own = 4;  // as in index_device.cpp
extern "C" __global__ void __launch_bounds__(256) index_get(const __grid_constant__ Walk w, const T* x, T* out) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 256 * own + threadIdx.x;
  Place p[own];
  int64_t given[own][axes];
  bool there[own];
#pragma unroll
  for (int u = 0; u < own; ++u) {
    I b, element;
    there[u] = part_of(w, first + u * 256, w.entries, b, element);
    if (!there[u]) continue;
    Entry e = entry_of<false>(w, b);
    add_slice(w, element, e.place.big, e.place.small);
    p[u] = e.place;
#pragma unroll
    for (int j = 0; j < axes; ++j) given[u][j] = w.index[j][e.from[j]];
  }
#pragma unroll
  for (int u = 0; u < own; ++u)
#pragma unroll
    for (int j = 0; j < axes; ++j)
      if (there[u]) point<false>(w, j, given[u][j], p[u]);
  T v[own];
#pragma unroll
  for (int u = 0; u < own; ++u) v[u] = there[u] && p[u].key >= 0 ? x[p[u].big] : T{};
#pragma unroll
  for (int u = 0; u < own; ++u)
    if (there[u]) out[p[u].small] = v[u];
}
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
using K = FLAME_KEY;
using C = computed<T>;
struct assign {
  static C of(C, C s) { return s; }
};
struct add {
  static C of(C e, C s) { return plus(e, s); }
};
struct prod {
  static C of(C e, C s) { return times(e, s); }
};
struct amax {
  static C of(C e, C s) { return s > e || s != s ? s : e; }
};
struct amin {
  static C of(C e, C s) { return s < e || s != s ? s : e; }
};
C combine(C e, const T& s) { return FLAME_COMBINE::of(e, widen(s)); }

extern "C" __global__ void __launch_bounds__(256)
    index_keys(const __grid_constant__ Walk w, K* keys, uint32_t* entries) {
  const int64_t i = global_thread();
  if (i >= w.entries) return;
  const Place p = place_of<true>(w, static_cast<I>(i));
  keys[i] = static_cast<K>(p.key < 0 ? w.places : p.key);  // bad ones come last
  entries[i] = static_cast<uint32_t>(i);
}

#ifdef FLAME_TILE
// Few tiles: the digits of the first pass are counted as well.
extern "C" __global__ void __launch_bounds__(256)
    index_few_keys(const __grid_constant__ Walk w, K* keys, uint32_t* counts) {
  const int64_t i = global_thread();
  if (i >= w.entries) return;
  const Place p = place_of<true>(w, static_cast<I>(i));
  const K key = static_cast<K>(p.key < 0 ? w.places : p.key);  // bad ones come last
  keys[i] = key;
  atomicAdd(&counts[i / FLAME_TILE * 256 + (key & 255)], 1u);
}
#endif

constexpr int64_t run = 256;
inline bool whole_run(const Walk& w, const K* keys, int64_t first, K key) {
  return first % run == 0 && first + run <= w.entries && keys[first] == key && keys[first + run - 1] == key;
}
// How many of them follow each other from a whole run on.
inline int64_t whole_runs(const Walk& w, const K* keys, int64_t first, K key) {
  int64_t low = 1, high = (w.entries - first) / run + 1;  // so many are, so many are not
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (keys[first + middle * run - 1] == key) low = middle;
    else high = middle;
  }
  return low;
}
#if !defined(FLAME_PACK)
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
#else
// As above with units of 16 bytes as elements: a warp a place and chunk of its slice, which it writes whole, entries or none.
// from: what entries are combined with, or null for zeros.
constexpr int pack = FLAME_PACK, own = 4, lanes = 32;
using P = Pack<T, pack>;
struct Sums {
  C v[pack];
};
extern "C" __global__ void __launch_bounds__(256) index_wide_runs(const __grid_constant__ Walk w, const K* keys,
                                                                  const uint32_t* entries, const P* value, Sums* runs) {
  I r, element;
  if (!my_part(w, w.entries / run, r, element)) return;
  const int64_t first = r * run;
  const K key = keys[first];
  if (key >= static_cast<K>(w.places) || !whole_run(w, keys, first, key)) return;
  int64_t big = 0, beside = 0;
  add_slice(w, element, big, beside);
  Sums e;
  const P p = value[small_of(w, static_cast<I>(entries[first])) + beside];
#pragma unroll
  for (int q = 0; q < pack; ++q) e.v[q] = widen(p.v[q]);
#pragma unroll 8
  for (int64_t i = 1; i < run; ++i) {
    const P p = value[small_of(w, static_cast<I>(entries[first + i])) + beside];
#pragma unroll
    for (int q = 0; q < pack; ++q) e.v[q] = combine(e.v[q], p.v[q]);
  }
  runs[r * w.slice + element] = e;
}

// The first entry whose key is not below: 32 parts at a time.
inline int64_t first_of(const K* keys, int64_t n, K key) {
  const int lane = threadIdx.x % lanes;
  int64_t low = 0;  // all before are below; nobody from low + n on is
  while (n > 0) {
    const int64_t step = (n + lanes - 1) / lanes, at = (lane + 1) * step - 1;
    const int below = __popc(__ballot_sync(~0u, at < n && keys[low + at] < key));
    low += below * step;
    n = min(n - below * step, step - 1);
  }
  return low;
}
extern "C" __global__ void __launch_bounds__(256)
    index_wide(const __grid_constant__ Walk w, const K* keys, const uint32_t* entries, const P* value, const Sums* runs,
               const P* from, P* out) {
  const int lane = threadIdx.x % lanes;
  const I chunks = static_cast<I>((w.slice + own * lanes - 1) / (own * lanes));
  const I number = static_cast<I>(global_thread() / lanes), place = number / chunks;
  if (place >= w.places) return;
  const K key = static_cast<K>(place);
  int64_t base = 0, big[own], small[own], element[own];
  each_axis(place, w.place_rank, w.place_size, [&](int i, int64_t k) { base += k * w.place_step[i]; });
  bool there[own];
  Sums e[own];
#pragma unroll
  for (int j = 0; j < own; ++j) {
    element[j] = static_cast<int64_t>(number - place * chunks) * own * lanes + j * lanes + lane;
    there[j] = element[j] < w.slice;
    big[j] = base, small[j] = 0;
    if (there[j]) add_slice(w, static_cast<I>(element[j]), big[j], small[j]);
    P p{};
    if (there[j] && from) p = from[big[j]];
#pragma unroll
    for (int q = 0; q < pack; ++q) e[j].v[q] = widen(p.v[q]);
  }
  for (int64_t i = first_of(keys, w.entries, key); i < w.entries;) {
    if (whole_run(w, keys, i, key)) {
      const int64_t end = i + run * whole_runs(w, keys, i, key);
#pragma unroll 2
      for (int64_t r = i / run; r < end / run; ++r)
#pragma unroll
        for (int j = 0; j < own; ++j)
          if (there[j]) {
            const Sums s = runs[r * w.slice + element[j]];
#pragma unroll
            for (int q = 0; q < pack; ++q) e[j].v[q] = FLAME_COMBINE::of(e[j].v[q], s.v[q]);
          }
      i = end;
      continue;
    }
    const bool mine = i + lane < w.entries && lane < run - i % run && keys[i + lane] == key;
    const int n = __popc(__ballot_sync(~0u, mine));
    if (n == 0) break;
    const int64_t at = mine ? small_of(w, static_cast<I>(entries[i + lane])) : 0;
#pragma unroll 2
    for (int l = 0; l < n; ++l) {
      const P* s = value + __shfl_sync(~0u, at, l);
      P p[own];
#pragma unroll
      for (int j = 0; j < own; ++j)
        if (there[j]) p[j] = s[small[j]];
#pragma unroll
      for (int j = 0; j < own; ++j)
#pragma unroll
        for (int q = 0; q < pack; ++q) e[j].v[q] = combine(e[j].v[q], p[j].v[q]);
    }
    i += n;
  }
#pragma unroll
  for (int j = 0; j < own; ++j)
    if (there[j]) {
      P p;
#pragma unroll
      for (int q = 0; q < pack; ++q) p.v[q] = convert<T>(e[j].v[q]);
      out[big[j]] = p;
    }
}
#endif
#endif

}  // namespace flame
