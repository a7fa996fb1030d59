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
// FLAME_FLAT: entries, slices and places have at most an axis each; a stride without one is 0.
template <class F>
void each(I number, int64_t rank, const int64_t* sizes, F fn) {
#if FLAME_FLAT
  fn(0, static_cast<int64_t>(number));
#else
  each_axis(number, rank, sizes, fn);
#endif
}
inline int64_t small_of(const Walk& w, I b) {
  int64_t small = 0;
  each(b, w.at_rank, w.at, [&](int i, int64_t k) { small += k * w.small_at[i]; });
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
  each(b, w.at_rank, w.at, [&](int i, int64_t k) {
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
  each(element, w.slice_rank, w.rest, [&](int i, int64_t k) {
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
extern "C" __global__ void __launch_bounds__(256, 6) index_get(const __grid_constant__ Walk w, const T* x, T* out) {
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
// As above with units of 16 bytes as elements, one to four a lane, so that rows are read together and every place is written once.
constexpr int pack = FLAME_PACK, units = FLAME_UNITS, lanes = 32;
constexpr int ahead = units == 1 ? 8 : 4;  // rows on the way
using P = Pack<T, pack>;
struct Sums {
  C v[pack];
};
// What a warp has of a slice, and which of the warps for that it is.
struct Part {
  int64_t number, element[units], big[units], small[units];
  bool there[units];
  explicit Part(const Walk& w) {
    const I warp = static_cast<I>(global_thread() / lanes);
    const I parts = static_cast<I>((w.slice + units * lanes - 1) / (units * lanes));
    number = warp / parts;
#pragma unroll
    for (int j = 0; j < units; ++j) {
      element[j] = static_cast<int64_t>(warp % parts * units + j) * lanes + threadIdx.x % lanes;
      there[j] = element[j] < w.slice;
      big[j] = small[j] = 0;
      if (there[j]) add_slice(w, static_cast<I>(element[j]), big[j], small[j]);
    }
  }
};
inline void take(Sums& e, const P& p) {
#pragma unroll
  for (int q = 0; q < pack; ++q) e.v[q] = combine(e.v[q], p.v[q]);
}
inline void begin(Sums& e, const P& p) {
#pragma unroll
  for (int q = 0; q < pack; ++q) e.v[q] = widen(p.v[q]);
}
// Takes the rows that lanes first to last - 1 name by `at`, several of them on the way. fresh: the first one begins the sums.
inline void take_rows(const P* value, int64_t at, int first, int last, const Part& part, Sums (&e)[units],
                      bool fresh = false) {
#pragma unroll 1
  for (; first < last; first += ahead) {
    P p[ahead][units];
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const P* row = value + __shfl_sync(~0u, at, (first + u) % lanes);
#pragma unroll
      for (int j = 0; j < units; ++j)
        if (first + u < last && part.there[j]) p[u][j] = row[part.small[j]];
    }
#pragma unroll
    for (int u = 0; u < ahead; ++u)
#pragma unroll
      for (int j = 0; j < units; ++j) {
        if (u == 0 && fresh) begin(e[j], p[u][j]);
        else if (first + u < last) take(e[j], p[u][j]);
      }
    fresh = false;
  }
}
extern "C" __global__ void __launch_bounds__(128) index_wide_runs(const __grid_constant__ Walk w, const K* keys,
                                                                  const uint32_t* entries, const P* value, Sums* runs) {
  const Part part(w);
  const int64_t first = part.number * run;
  if (first + run > w.entries) return;
  const K key = keys[first];
  if (key >= static_cast<K>(w.places) || !whole_run(w, keys, first, key)) return;
  Sums e[units];
#pragma unroll 1
  for (int i = 0; i < run; i += lanes) {
    const int64_t at = small_of(w, static_cast<I>(entries[first + i + threadIdx.x % lanes]));
    take_rows(value, at, 0, lanes, part, e, i == 0);
  }
#pragma unroll
  for (int j = 0; j < units; ++j)
    if (part.there[j]) runs[part.number * w.slice + part.element[j]] = e[j];
}

// The first of n entries from `low` on of which below(entry) does not hold, as it does before it: 32 parts at a time.
template <class Below>
int64_t first_not(int64_t low, int64_t n, Below below) {
  const int lane = threadIdx.x % lanes;
#pragma unroll 1
  while (n > 0) {
    const int64_t step = (n + lanes - 1) / lanes, at = (lane + 1) * step - 1;
    const int are = __popc(__ballot_sync(~0u, at < n && below(low + at)));
    low += are * step;
    n = min(n - are * step, step - 1);
  }
  return low;
}
// Places and entries in one row, each place before its entries, are shared out evenly; a warp takes the places of its share with
// all of their entries, and those without any. from: what entries are combined with, or null for zeros.
constexpr int share = 8;  // as in index_device.cpp
extern "C" __global__ void __launch_bounds__(128)
    index_wide(const __grid_constant__ Walk w, const K* keys, const uint32_t* entries, const P* value, const Sums* runs,
               const P* from, P* out) {
  const Part part(w);
  const int lane = threadIdx.x % lanes;
  const int64_t begins = part.number * share, ends = begins + share;
  if (begins >= w.places + w.entries) return;
  int64_t i = first_not(0, w.entries, [&](int64_t e) { return static_cast<int64_t>(keys[e]) + 1 + e < begins; });
  int64_t place = begins - i;
  if (place >= w.places) return;
  i = first_not(i, i < w.entries && static_cast<int64_t>(keys[i]) < place ? w.entries - i : 0,
                [&](int64_t e) { return static_cast<int64_t>(keys[e]) < place; });
  if (place + i >= ends) return;  // all of the share is of a place that began before it

  Sums e[units];
  bool met;  // an entry
  int64_t to;
  const auto start = [&] {
    to = 0;
    each(static_cast<I>(place), w.place_rank, w.place_size, [&](int j, int64_t k) { to += k * w.place_step[j]; });
    met = false;
#pragma unroll
    for (int j = 0; j < units; ++j) begin(e[j], from && part.there[j] ? from[to + part.big[j]] : P{});
  };
  const auto finish = [&] {
#pragma unroll
    for (int j = 0; j < units; ++j) {
      if (!part.there[j] || (!met && from == out)) continue;
      P p{};
      if (met || from)
#pragma unroll
        for (int q = 0; q < pack; ++q) p.v[q] = convert<T>(e[j].v[q]);
      out[to + part.big[j]] = p;
    }
    ++place;
  };
  const auto go_to = [&](int64_t next) {
#pragma unroll 1
    while (place < next) {
      finish();
      start();
    }
  };
  start();
#pragma unroll 1
  while (i < w.entries) {
    if (const int64_t key = static_cast<int64_t>(keys[i]); i % run == 0 && key < w.places &&
                                                           (key == place || key + i < ends) &&
                                                           whole_run(w, keys, i, static_cast<K>(key))) {
      go_to(key);
      met = true;
      const int64_t last = i / run + whole_runs(w, keys, i, static_cast<K>(key));
#pragma unroll 2
      for (int64_t r = i / run; r < last; ++r)
#pragma unroll
        for (int j = 0; j < units; ++j) {
          if (!part.there[j]) continue;
          const Sums s = runs[r * w.slice + part.element[j]];
#pragma unroll
          for (int q = 0; q < pack; ++q) e[j].v[q] = FLAME_COMBINE::of(e[j].v[q], s.v[q]);
        }
      i = last * run;
      continue;
    }
    const int n = static_cast<int>(min(min(w.entries - i, run - i % run), static_cast<int64_t>(lanes)));
    const int64_t key = lane < n ? static_cast<int64_t>(keys[i + lane]) : w.places;
    const int64_t at = lane < n ? small_of(w, static_cast<I>(entries[i + lane])) : 0;
    const int64_t left = __shfl_up_sync(~0u, key, 1);
    const uint32_t firsts = __ballot_sync(~0u, lane == 0 || left != key);
    const int first = lanes - 1 - __clz(firsts & ~0u >> (lanes - 1 - lane));  // of this lane's place
    const bool mine = key < w.places && (key == place || key + i + first < ends);
    const int own = __popc(__ballot_sync(~0u, mine));
#pragma unroll 1
    for (int l = 0; l < own;) {
      go_to(__shfl_sync(~0u, key, l));
      met = true;
      const uint32_t later = firsts & ~1u << l;
      const int last = later ? min(own, __ffs(later) - 1) : own;
      take_rows(value, at, l, last, part, e);
      l = last;
    }
    i += own;
    if (own < n) break;
  }
  finish();
#pragma unroll 1
  while (place < w.places && place + i < ends) {
    start();
    finish();
  }
}
#endif
#endif

}  // namespace flame
