// Sums into slices of 256 bytes and more, from sorted keys as in index.cu. Elements are units of 16 bytes here, one to four a lane
// of a warp (FLAME_UNITS) with FLAME_PACK numbers each, so that rows are read together and every place is written once.
// FLAME_BEHIND: `from` is added to the sums, rounded by themselves, instead of beginning them.
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
  I number, first;  // first: the element of the lane's first unit; the others follow at every 32nd
  int own;          // how many units it has
#if !FLAME_FLAT
  int64_t bigs[units]{}, smalls[units]{};
#endif
  explicit Part(const Walk& w) {
    const I warp = static_cast<I>(global_thread() / lanes);
    const I parts = static_cast<I>((w.slice + units * lanes - 1) / (units * lanes));
    number = warp / parts;
    first = (warp - number * parts) * (units * lanes) + static_cast<I>(threadIdx.x % lanes);
    const I left = static_cast<I>(w.slice) - first;
    own = left > 0 ? static_cast<int>(min((left + lanes - 1) / lanes, static_cast<I>(units))) : 0;
#if !FLAME_FLAT
#pragma unroll
    for (int j = 0; j < units; ++j)
      if (j < own) add_slice(w, first + j * lanes, bigs[j], smalls[j]);
#endif
  }
#if FLAME_FLAT  // the elements of a slice are neighbours
  int64_t big(int j) const { return first + j * lanes; }
  int64_t small(int j) const { return first + j * lanes; }
#else
  int64_t big(int j) const { return bigs[j]; }
  int64_t small(int j) const { return smalls[j]; }
#endif
};
// Elements on the way stay packed.
inline void take(Sums& e, uint4 bits) {
  const P p = std::bit_cast<P>(bits);
#pragma unroll
  for (int q = 0; q < pack; ++q) e.v[q] = combine(e.v[q], p.v[q]);
}
inline void begin(Sums& e, uint4 bits) {
  const P p = std::bit_cast<P>(bits);
#pragma unroll
  for (int q = 0; q < pack; ++q) e.v[q] = widen(p.v[q]);
}
// Takes the rows that lanes first to last - 1 name by `at`, several of them on the way. fresh: the first one begins the sums.
inline void take_rows(const uint4* value, int64_t at, int first, int last, const Part& part, Sums (&e)[units],
                      bool fresh = false) {
#pragma unroll 1
  for (; first < last; first += ahead) {
    uint4 p[ahead][units];
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const uint4* row = value + __shfl_sync(~0u, at, (first + u) % lanes);
#pragma unroll
      for (int j = 0; j < units; ++j)
        if (first + u < last && j < part.own) p[u][j] = row[part.small(j)];
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
extern "C" __global__ void __launch_bounds__(128)
    index_wide_runs(const __grid_constant__ Walk w, const K* keys, const uint32_t* entries, const uint4* value,
                    Sums* runs) {
  const Part part(w);
  const int64_t first = static_cast<int64_t>(part.number) * run;
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
    if (j < part.own) runs[part.number * w.slice + part.first + j * lanes] = e[j];
}

// The first of n entries from `low` on of which below(entry) does not hold, as it does before it: 32 parts at a time.
template <class Below>
I first_not(I low, I n, Below below) {
  const int lane = threadIdx.x % lanes;
#pragma unroll 1
  while (n > 0) {
    const I step = (n + lanes - 1) / lanes, at = (lane + 1) * step - 1;
    const int are = __popc(__ballot_sync(~0u, at < n && below(low + at)));
    low += are * step;
    n = min(n - are * step, step - 1);
  }
  return low;
}
// The sums of one place after the other.
struct Writer {
  const Walk& w;
  const Part& part;
  const uint4* from;  // what entries are combined with, or null for zeros; or what is added to that of zeros
  uint4* out;
  I place;
  int64_t to = 0;
  bool met = false;  // an entry
  Sums e[units];
#ifdef FLAME_BEHIND
  uint4 behind[units];
#endif

  void start() {
    to = 0;
    each(place, w.place_rank, w.place_size, [&](int j, int64_t k) { to += k * w.place_step[j]; });
    met = false;
#pragma unroll
#ifdef FLAME_BEHIND
    for (int j = 0; j < units; ++j) {
      begin(e[j], uint4{});
      if (j < part.own) behind[j] = from[to + part.big(j)];
    }
#else
    for (int j = 0; j < units; ++j) begin(e[j], from && j < part.own ? from[to + part.big(j)] : uint4{});
#endif
  }
#ifdef FLAME_BEHIND
  void finish() {
#pragma unroll
    for (int j = 0; j < units; ++j) {
      if (j >= part.own) continue;
      P p = std::bit_cast<P>(behind[j]);
#pragma unroll
      for (int q = 0; q < pack; ++q) p.v[q] = convert<T>(plus(widen(p.v[q]), widen(convert<T>(e[j].v[q]))));
      out[to + part.big(j)] = std::bit_cast<uint4>(p);
    }
    ++place;
  }
#else
  void finish() {
    const bool rounds = met || from;
#pragma unroll
    for (int j = 0; j < units; ++j) {
      if (j >= part.own || (!met && from == out)) continue;
      P p{};
      if (rounds)
#pragma unroll
        for (int q = 0; q < pack; ++q) p.v[q] = convert<T>(e[j].v[q]);
      out[to + part.big(j)] = std::bit_cast<uint4>(p);
    }
    ++place;
  }
#endif
  void go_to(I next) {
#pragma unroll 1
    while (place < next) {
      finish();
      start();
    }
    met = true;
  }
};
inline void load(uint4 (&p)[units], const uint4* row, const Part& part) {
#pragma unroll
  for (int j = 0; j < units; ++j)
    if (j < part.own) p[j] = row[part.small(j)];
}
// Places and entries in one row, each place before its entries, are shared out evenly; a warp takes the places of its share with
// all of their entries, and those without any.
constexpr int share = 12;  // as in index_device.cpp
extern "C" __global__ void __launch_bounds__(128, units < 3 ? 5 : 4)
    index_wide(const __grid_constant__ Walk w, const K* keys, const uint32_t* entries, const uint4* value,
               const Sums* runs, const uint4* from, uint4* out) {
  const Part part(w);
  const int lane = threadIdx.x % lanes;
  const I begins = static_cast<I>(part.number) * share, ends = begins + share;
  const I places = static_cast<I>(w.places), count = static_cast<I>(w.entries);
  if (begins >= places + count) return;
  const auto key_at = [&](I i) { return static_cast<I>(keys[i]); };
  I i = first_not(0, count, [&](I e) { return key_at(e) + 1 + e < begins; });
  const I place = begins - i;
  if (place >= places) return;
  if (i < count && key_at(i) < place) i = first_not(i, count - i, [&](I e) { return key_at(e) < place; });
  if (place + i >= ends) return;  // all of the share is of a place that began before it

  Writer sums{w, part, from, out, place};
  sums.start();
#pragma unroll 1
  while (i < count) {
    if (i % run == 0) {
      const I key = key_at(i);
      if (key < places && (key == sums.place || key + i < ends) && whole_run(w, keys, i, static_cast<K>(key))) {
        sums.go_to(key);
        const I last = static_cast<I>(i / run + whole_runs(w, keys, i, static_cast<K>(key)));
#pragma unroll 2
        for (I r = static_cast<I>(i / run); r < last; ++r)
#pragma unroll
          for (int j = 0; j < units; ++j) {
            if (j >= part.own) continue;
            const Sums s = runs[r * w.slice + part.first + j * lanes];
#pragma unroll
            for (int q = 0; q < pack; ++q) sums.e[j].v[q] = FLAME_COMBINE::of(sums.e[j].v[q], s.v[q]);
          }
        i = static_cast<I>(last * run);
        continue;
      }
    }
    const int n = static_cast<int>(min(min(count - i, static_cast<I>(run - i % run)), static_cast<I>(lanes)));
    const I key = lane < n ? key_at(i + lane) : places;
    const int64_t at = lane < n ? small_of(w, static_cast<I>(entries[i + lane])) : 0;
    const I left = __shfl_up_sync(~0u, key, 1);
    const uint32_t firsts = __ballot_sync(~0u, lane == 0 || left != key) & ~0u >> (lanes - 1 - lane);
    const int first = lanes - 1 - __clz(firsts);  // of this lane's place
    const bool mine = key < places && (key == sums.place || key + i + first < ends);
    const int own = __popc(__ballot_sync(~0u, mine));
    uint4 p[ahead][units];
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const int64_t row = __shfl_sync(~0u, at, u);
      if (u < own) load(p[u], value + row, part);
    }
#pragma unroll 1
    for (int l = 0; l < own; l += ahead)
#pragma unroll
      for (int u = 0; u < ahead; ++u) {
        if (l + u >= own) break;
        sums.go_to(__shfl_sync(~0u, key, l + u));
#pragma unroll
        for (int j = 0; j < units; ++j) take(sums.e[j], p[u][j]);
        if (l + u + ahead < own) load(p[u], value + __shfl_sync(~0u, at, l + u + ahead), part);
      }
    i += own;
    if (own < n) break;
  }
  sums.finish();
#pragma unroll 1
  while (sums.place < places && sums.place + i < ends) {
    sums.start();
    sums.finish();
  }
}

}  // namespace flame
