// Sums into slices of 256 bytes and more, from sorted keys as in index.cu. Elements are units of 16 bytes here, one to four a lane
// of a warp (FLAME_UNITS) with FLAME_PACK numbers each, so that rows are read together and every place is written once.
#include "flame/ops/index_walk.cuh"

namespace flame {
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

}  // namespace flame
