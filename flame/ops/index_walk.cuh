// Walks over the entries of index tensors, and sorted keys, which are the places that they point to.
// FLAME_T: the dtype, or an integer of its size where numbers only move. FLAME_INDEX: int32_t where all counts fit; FLAME_AXES: how
// many index tensors there are; FLAME_FLAT: entries, slices and places have at most an axis each, whose stride is 0 if they have none; 2: as
// DeviceWalk::whole_slices says.
#pragma once
#include "flame/device/fault.cuh"
#ifdef FLAME_COMBINE
#include "flame/ops/index_combine.cuh"
#endif

namespace flame {
using T = FLAME_T;
using I = FLAME_INDEX;
using U = std::make_unsigned_t<I>;

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
  const U n = static_cast<U>(w.slice), at = static_cast<U>(i);
  b = static_cast<I>(n == 1 ? at : at / n);
  element = static_cast<I>(at - static_cast<U>(b) * n);
  return true;
}
inline bool my_part(const Walk& w, int64_t entries, I& b, I& element) {
  return part_of(w, global_thread(), entries, b, element);
}

#ifdef FLAME_COMBINE
using K = FLAME_KEY;
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
#endif

}  // namespace flame
