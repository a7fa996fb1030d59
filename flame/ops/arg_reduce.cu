// The place of the extreme element along any axes, the first of equals; a NaN beats all but an earlier one. A warp a row, or a
// part of a long one; the parts are joined by another warp.
// FLAME_T: the dtype. FLAME_GREATEST: 1 for the largest.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using A = computed<T>;

struct Walk {
  int64_t rows, count, kept_rank, along_rank;
  int64_t kept[8], kept_strides[8], along[8], along_strides[8];
};
inline int64_t offset(int64_t i, int64_t rank, const int64_t* sizes, const int64_t* strides) {
  int64_t at = 0;
  each_axis(i, rank, sizes, [&](int axis, int64_t k) { at += k * strides[axis]; });
  return at;
}

struct Best {
  A value;
  int64_t place;  // -1: nothing yet
};
// Whether `b` takes the place of `a`, both there.
inline bool beats(const Best& b, const Best& a) {
  const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
  if (a_nan || b_nan) return b_nan && (!a_nan || b.place < a.place);
  if (a.value == b.value) return b.place < a.place;
  return FLAME_GREATEST ? b.value > a.value : b.value < a.value;
}
inline Best join(const Best& a, const Best& b) { return b.place < 0 ? a : a.place < 0 ? b : beats(b, a) ? b : a; }
// The same for an element that comes after those seen.
inline void meet(Best& best, A v, int64_t place) {
  const bool better = FLAME_GREATEST ? v > best.value : v < best.value;
  if (best.place < 0 || better || (v != v && best.value == best.value)) best = {v, place};
}
template <class V>
V from_lane(V v, int by) {
  if constexpr (sizeof(V) < 4) return static_cast<V>(__shfl_down_sync(0xffffffffu, static_cast<int>(v), by));
  else return __shfl_down_sync(0xffffffffu, v, by);
}

inline Best join_lanes(Best best) {
  for (int by = 16; by > 0; by /= 2) best = join(best, {from_lane(best.value, by), from_lane(best.place, by)});
  return best;
}

// best: [rows, parts], each of so many elements; with one part a row, out is written at once.
extern "C" __global__ void __launch_bounds__(256)
    arg_extreme(const __grid_constant__ Walk w, const T* x, Best* parts_best, int64_t* out, int64_t parts,
                int64_t each) {
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32, row = warp / parts, part = warp % parts;
  const int lane = threadIdx.x % 32;
  if (row >= w.rows) return;
  const T* from = x + offset(row, w.kept_rank, w.kept, w.kept_strides);
  const int64_t end = part * each + each < w.count ? part * each + each : w.count;
  Best best{A(), -1};
  int64_t i = part * each + lane;
  if (w.along_rank == 1) {
    constexpr int ahead = 8;  // elements on the way
    const int64_t step = w.along_strides[0];
    for (; i + (ahead - 1) * 32 < end; i += ahead * 32) {
      T v[ahead];
#pragma unroll
      for (int k = 0; k < ahead; ++k) v[k] = read_once(from + (i + k * 32) * step);
#pragma unroll
      for (int k = 0; k < ahead; ++k) meet(best, widen(v[k]), i + k * 32);
    }
  }
  for (; i < end; i += 32) meet(best, widen(from[offset(i, w.along_rank, w.along, w.along_strides)]), i);
  best = join_lanes(best);
  if (lane != 0) return;
  if (parts == 1) out[row] = best.place;
  else parts_best[warp] = best;
}
extern "C" __global__ void __launch_bounds__(256)
    arg_join(const Best* parts_best, int64_t* out, int64_t rows, int64_t parts) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (row >= rows) return;
  Best best{A(), -1};
  for (int64_t i = threadIdx.x % 32; i < parts; i += 32) best = join(best, parts_best[row * parts + i]);
  best = join_lanes(best);
  if (threadIdx.x % 32 == 0) out[row] = best.place;
}

}  // namespace flame
