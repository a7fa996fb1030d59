// Reading and writing by an index along short rows: a block takes a row, whose elements and counts lie in shared memory
// meanwhile, so that memory is read and written once, in order. Entries of one place are combined in the order of the index.
// FLAME_T: the dtype, or an integer of its size where numbers only move. FLAME_FLAT: rows follow each other by one stride.
#include "flame/device/fault.cuh"
#include "flame/fuse/scalar_math.h"

namespace flame {
using namespace kernels;
using T = FLAME_T;

// As in device_index_internal.h. Along the axis, the big tensor and the index have neighbours, the small one has or repeats one.
struct Rows {
  const char* op;
  int64_t rows, entries, places, axis, rank, small_step, shared, covers;
  int64_t size[8], small_at[8], index_at[8], big_at[8];
  const int64_t* index;
};
// A block is of as many rows as it has threads along y.
struct Row {
  int64_t small, index, big;
  int entries, places;  // none beyond the last row
  uint4* memory;
};
extern __shared__ uint4 all_memory[];
inline Row my_row(const Rows& w) {
  const int64_t number = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  Row r{};
  r.memory = all_memory + threadIdx.y * w.shared;
  if (number >= w.rows) return r;
  r.entries = static_cast<int>(w.entries), r.places = static_cast<int>(w.places);
  const auto add_axis = [&](int i, int64_t k) {
    r.small += k * w.small_at[i];
    r.index += k * w.index_at[i];
    r.big += k * w.big_at[i];
  };
#if FLAME_FLAT
  add_axis(0, number);
#else
  each_axis(number, w.rank, w.size, add_axis);
#endif
  return r;
}
__noinline__ void bad_index(const Rows& w, int64_t given) { report_bad_index(w.op, given, w.axis, w.places); }
inline bool good(const Rows& w, int64_t k) {
  if (static_cast<uint64_t>(k) < static_cast<uint64_t>(w.places)) return true;
  bad_index(w, k);
  return false;
}

// Calls load(u, i), and then use(u, i), for the numbers below n of a thread, so that several loads are on the way.
constexpr int own = 8;
template <class Load, class Use>
void in_chunks(int n, Load load, Use use) {
#pragma unroll 1
  for (int first = threadIdx.x; first < n; first += own * blockDim.x) {
#pragma unroll
    for (int u = 0; u < own; ++u)
      if (const int i = first + u * blockDim.x; i < n) load(u, i);
#pragma unroll
    for (int u = 0; u < own; ++u)
      if (const int i = first + u * blockDim.x; i < n) use(u, i);
  }
}

#if defined(FLAME_GET)
extern "C" __global__ void __launch_bounds__(512) rows_get(const __grid_constant__ Rows w, const T* x, T* out) {
  const Row r = my_row(w);
  const int64_t* index = w.index + r.index;
  T* row = reinterpret_cast<T*>(r.memory);
  int64_t k[own];
  T v[own];
  in_chunks(
      r.places, [&](int u, int p) { v[u] = read_once(x + r.big + p); }, [&](int u, int p) { row[p] = v[u]; });
  __syncthreads();
  in_chunks(
      r.entries, [&](int u, int i) { k[u] = read_once(index + i); },
      [&](int u, int i) { out[r.small + i] = good(w, k[u]) ? row[k[u]] : T{}; });
}
#elif defined(FLAME_ASSIGN)
// from: what places keep that nobody writes, or null for zeros.
extern "C" __global__ void __launch_bounds__(512)
    rows_assign(const __grid_constant__ Rows w, const T* src, const T* from, T* out) {
  const Row r = my_row(w);
  const int64_t* index = w.index + r.index;
  const int entries = r.entries, places = r.places, step = static_cast<int>(w.small_step);
  T* value = reinterpret_cast<T*>(r.memory);
  uint32_t* last = reinterpret_cast<uint32_t*>(r.memory + (entries * sizeof(T) + 15) / 16);
  for (int p = threadIdx.x; p < places; p += blockDim.x) last[p] = 0;
  __syncthreads();
  int64_t k[own];
  T v[own];
  in_chunks(
      entries,
      [&](int u, int i) {
        k[u] = read_once(index + i);
        v[u] = read_once(src + r.small + i * step);
      },
      [&](int u, int i) {
        value[i] = v[u];
        if (good(w, k[u])) atomicMax(&last[k[u]], static_cast<uint32_t>(i) + 1);
      });
  __syncthreads();
  in_chunks(
      places, [&](int u, int p) { v[u] = from ? from[r.big + p] : T{}; },
      [&](int u, int p) {
        const uint32_t l = last[p];
        out[r.big + p] = l ? value[l - 1] : v[u];
      });
}
#else
using C = computed<T>;
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

constexpr int few = 4, run = 256;
inline void in_order(uint32_t& a, uint32_t& b) {
  const uint32_t low = min(a, b), high = max(a, b);
  a = low, b = high;
}
// The members of a place, in order of the index: a warp's work. Up to 64 by counting those before each, more by a walk over all.
inline void order(const uint16_t* key, int entries, int place, uint16_t* list, int n) {
  const int lane = threadIdx.x % 32;
  if (n <= 64) {
    const uint32_t a = lane < n ? list[lane] : 0, b = lane + 32 < n ? list[lane + 32] : 0;
    int before_a = 0, before_b = 0;
#pragma unroll 1
    for (int j = 0; j < n; ++j) {
      const uint32_t other = list[j];
      before_a += other < a;
      before_b += other < b;
    }
    __syncwarp();
    if (lane < n) list[before_a] = static_cast<uint16_t>(a);
    if (lane + 32 < n) list[before_b] = static_cast<uint16_t>(b);
  } else {
    int met = 0;
#pragma unroll 1
    for (int i = lane; i < (entries + 31) / 32 * 32; i += 32) {
      const uint32_t equal = __ballot_sync(~0u, i < entries && key[i] == place);
      if (equal >> lane & 1) list[met + __popc(equal & ((1u << lane) - 1))] = static_cast<uint16_t>(i);
      met += __popc(equal);
    }
  }
  __syncwarp();
}

// Entries are listed by place: counted, given a part of the list each, and put there; those of a place are then brought
// into the order of the index. Where the parts lie depends on timing, what comes of them does not.
extern "C" __global__ void __launch_bounds__(512)
    rows_combine(const __grid_constant__ Rows w, const T* src, const T* from, T* out) {
  const Row r = my_row(w);
  const int64_t* index = w.index + r.index;
  const int entries = r.entries, places = r.places, lane = threadIdx.x % 32, step = static_cast<int>(w.small_step);
  T* value = reinterpret_cast<T*>(r.memory);
  uint32_t* count = reinterpret_cast<uint32_t*>(r.memory + (entries * sizeof(T) + 15) / 16);
  uint16_t* key = reinterpret_cast<uint16_t*>(count + places);
  uint16_t* list = key + entries;
  uint16_t* many = list + entries;  // places of more than a few
  __shared__ uint32_t all_listed[8], all_manies[8];
  uint32_t &listed = all_listed[threadIdx.y], &manies = all_manies[threadIdx.y];
  if (threadIdx.x == 0) listed = manies = 0;
#pragma unroll 1
  for (int p = threadIdx.x; p < places; p += blockDim.x) count[p] = 0;
  __syncthreads();
  int64_t k[own];
  T v[own];
  in_chunks(
      entries,
      [&](int u, int i) {
        k[u] = read_once(index + i);
        v[u] = read_once(src + r.small + i * step);
      },
      [&](int u, int i) {
        const bool is = good(w, k[u]);
        value[i] = v[u];
        key[i] = is ? static_cast<uint16_t>(k[u]) : 0xffff;
        if (is) atomicAdd(&count[k[u]], 1u << 16);
      });
  __syncthreads();
#pragma unroll 1
  for (int p = threadIdx.x; p < (places + 31) / 32 * 32; p += blockDim.x) {
    const uint32_t n = p < places ? count[p] >> 16 : 0;
    uint32_t through = n, base = 0;
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
      const uint32_t left = __shfl_up_sync(~0u, through, by);
      if (lane >= by) through += left;
    }
    if (lane == 31) base = atomicAdd(&listed, through);
    base = __shfl_sync(~0u, base, 31);
    if (p < places) count[p] = n << 16 | (base + through - n);
  }
  __syncthreads();
#pragma unroll 4
  for (int i = threadIdx.x; i < entries; i += blockDim.x)
    if (const int p = key[i]; p != 0xffff) list[atomicAdd(&count[p], 1u) & 0xffff] = static_cast<uint16_t>(i);
  __syncthreads();
  in_chunks(
      places, [&](int u, int p) { v[u] = from ? from[r.big + p] : T{}; },
      [&](int u, int p) {
        const int n = static_cast<int>(count[p] >> 16);
        const uint16_t* at = list + (count[p] & 0xffff) - n;
        if (n > few) {
          many[atomicAdd(&manies, 1u)] = static_cast<uint16_t>(p);
          return;
        }
        uint32_t m[few];
#pragma unroll
        for (int j = 0; j < few; ++j) m[j] = j < n ? at[j] : 0xffff;
        in_order(m[0], m[1]);
        in_order(m[2], m[3]);
        in_order(m[0], m[2]);
        in_order(m[1], m[3]);
        in_order(m[1], m[2]);
        C e = widen(v[u]);
#pragma unroll
        for (int j = 0; j < few; ++j)
          if (j < n) e = combine(e, value[m[j]]);
        out[r.big + p] = convert<T>(e);
      });
  __syncthreads();
#pragma unroll 1
  for (uint32_t which = threadIdx.x / 32; which < manies; which += blockDim.x / 32) {
    const int p = many[which], n = static_cast<int>(count[p] >> 16);
    uint16_t* at = list + (count[p] & 0xffff) - n;
    order(key, entries, p, at, n);
    const int64_t to = r.big + p;
    C e = from ? widen(from[to]) : C{};
    int i = 0;
    for (; i + run <= n; i += 32 * run) {  // a lane sums a run
      const int mine = i + lane * run;
      C sum{};
      if (mine + run <= n) {
        sum = widen(value[at[mine]]);
#pragma unroll 1
        for (int j = 1; j < run; ++j) sum = combine(sum, value[at[mine + j]]);
      }
#pragma unroll 1
      for (int l = 0; l < 32; ++l) {
        const C other = __shfl_sync(~0u, sum, l);
        if (i + (l + 1) * run <= n) e = FLAME_COMBINE::of(e, other);
      }
    }
    i = n / run * run;
#pragma unroll 4
    for (; i < n; ++i) e = combine(e, value[at[i]]);
    if (lane == 0) out[to] = convert<T>(e);
  }
}
#endif

}  // namespace flame
