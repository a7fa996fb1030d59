// Scans along one axis with the CPU's running dtypes. Many lines side by side: a thread a line, in order. Else by fixed trees: a
// block a line, or a chunk of a line, and the chunks of long lines are summed up first. FLAME_T: the dtype, FLAME_SCAN: which
// one; FLAME_BACK, FLAME_THREADS: for scan_row.
#include "flame/fuse/block_scan.cuh"
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using A = computed<T>;

// As in scan_internal.h.
struct Lines {
  int64_t lines, n, rank;
  int64_t shape[8], strides[3][8], start[3], along[3];
};
struct At {
  int64_t k[3];
};
inline At line_of(const Lines& l, int64_t i) {
  At at;
  for (int t = 0; t < 3; ++t) at.k[t] = l.start[t];
  each_axis(i, l.rank, l.shape, [&](int d, int64_t where) {
    for (int t = 0; t < 3; ++t) at.k[t] += where * l.strides[t][d];
  });
  return at;
}
inline void advance(const Lines& l, At& at, int64_t by = 1) {
  for (int t = 0; t < 3; ++t) at.k[t] += by * l.along[t];
}

template <bool floating, bool sixteen>
struct running_of {
  using type = uint64_t;
};
template <>
struct running_of<true, false> {
  using type = double;
};
template <>
struct running_of<true, true> {
  using type = float;
};
constexpr bool floating = std::is_floating_point_v<A>, sixteen = floating && sizeof(T) == 2;
using Running = typename running_of<floating, sixteen>::type;
template <bool f>
struct result_of {
  using type = int64_t;
};
template <>
struct result_of<true> {
  using type = T;
};
using Result = typename result_of<floating>::type;

// A scan: what element i of a line brings (`first`: it is the first one), how two neighbours join, and what is written.
struct Data {
  const void *a, *b;
  void *c, *d;
  int64_t lag;
};
template <bool product>
struct Running1 {
  using V = Running;
  static constexpr V nothing = product;  // joined with anything, that
  static V load(const Lines&, const Data& p, const At& at, int64_t) {
    const V v = static_cast<Running>(widen(static_cast<const T*>(p.a)[at.k[0]]));
    return product ? v : v + V(0);  // a sum starts at 0, so that none is -0
  }
  V operator()(V x, V y) const { return product ? x * y : x + y; }
  static void store(const Data& p, const At& at, V v) { static_cast<Result*>(p.c)[at.k[1]] = convert<Result>(v); }
};
using cumsum = Running1<false>;
using cumprod = Running1<true>;
// Scans of one input and one result, whose neighbours in a thread move together where they are neighbours in memory.
template <class S>
constexpr bool in_packs = false;
template <bool product>
constexpr bool in_packs<Running1<product>> = true;
template <class P>
bool fits(const void* p, int64_t along) {
  return along == 1 && reinterpret_cast<uint64_t>(p) % alignof(P) == 0;
}

// y_i = b_i + a_i y_(i-1), as pairs (product of a, y from 0). Out of order, 0 times a product that left the range is 0.
struct linear_scan {
  struct V {
    double a, y;
  };
  static V load(const Lines& l, const Data& p, const At& at, int64_t i) {
    const T* a = static_cast<const T*>(p.a) + at.k[0] - p.lag * l.along[0];
    return {i == 0 ? 0.0 : static_cast<double>(widen(*a)),
            static_cast<double>(widen(static_cast<const T*>(p.b)[at.k[1]]))};
  }
  V operator()(V x, V y) const {
#ifndef FLAME_IN_ORDER
    if (x.y == 0) return {x.a * y.a, y.y};
#endif
    return {x.a * y.a, y.y + y.a * x.y};
  }
  static void store(const Data& p, const At& at, V v) {
    static_cast<T*>(p.c)[at.k[2]] = convert<T>(static_cast<A>(v.y));
  }
};

// The largest m and the sum s of e^(x - m).
struct logcumsumexp {
  struct V {
    double m, s;
  };
  static V load(const Lines&, const Data& p, const At& at, int64_t) {
    return {static_cast<double>(widen(static_cast<const T*>(p.a)[at.k[0]])), 1.0};
  }
  V operator()(V x, V y) const {
    if (x.m == y.m) return {x.m, x.s + y.s};
    if (x.m > y.m) return {x.m, x.s + y.s * ::exp(y.m - x.m)};
    return {y.m, x.s * ::exp(x.m - y.m) + y.s};
  }
  static void store(const Data& p, const At& at, V v) {
    static_cast<T*>(p.c)[at.k[1]] = convert<T>(static_cast<A>(v.m + ::log(v.s)));
  }
};

template <bool greatest>
struct Extreme {
  struct V {
    int64_t where;
    A best;
  };
  static V load(const Lines&, const Data& p, const At& at, int64_t i) {
    return {i, widen(static_cast<const T*>(p.a)[at.k[0]])};
  }
  V operator()(const V& x, const V& y) const {
    const bool later = y.best != y.best || (x.best == x.best && (greatest ? y.best >= x.best : y.best <= x.best));
    return later ? y : x;
  }
  static void store(const Data& p, const At& at, const V& v) {
    static_cast<T*>(p.c)[at.k[1]] = convert<T>(v.best);
    static_cast<int64_t*>(p.d)[at.k[2]] = v.where;
  }
};
using cummax = Extreme<true>;
using cummin = Extreme<false>;

using S = FLAME_SCAN;
using V = S::V;

#ifdef FLAME_BACK
// A block a line, read and written once. A thread has packs of neighbours, as many as 16 bytes of results hold, each beside
// the next thread's, and all are on the way before anything is joined: lane by lane, warp by warp, tile by tile.
constexpr int threads = FLAME_THREADS, pack = 16 / sizeof(Result), packs = 16 / pack, warps = threads / 32,
              sums = packs * warps;
constexpr int each = sums > 32 ? sums / 32 : 1;
constexpr bool back = FLAME_BACK;  // from the last element in memory to the first
using From = Pack<T, pack>;
using To = Pack<Result, pack>;
constexpr int turned(int j) { return back ? pack - 1 - j : j; }

extern "C" __global__ void __launch_bounds__(threads, 768 / threads)
    scan_row(const __grid_constant__ Lines l, const __grid_constant__ Data p) {
  __shared__ V totals[sums];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const At at = line_of(l, blockIdx.x);
  const T* from = static_cast<const T*>(p.a) + at.k[0];
  Result* to = static_cast<Result*>(p.c) + at.k[1];
  const bool reads = fits<From>(from - turned(0), back ? -l.along[0] : l.along[0]);
  const bool writes = fits<To>(to - turned(0), back ? -l.along[1] : l.along[1]);
  V done = S::nothing;
  for (int64_t tile = 0; tile < l.n; tile += threads * 16) {
    const int64_t first = tile + threadIdx.x * pack;
    T own[packs][pack];
#pragma unroll
    for (int i = 0; i < packs; ++i) {
      const int64_t k = first + i * threads * pack;
      if (reads && k + pack <= l.n) {
        const From all = *reinterpret_cast<const From*>(from + (back ? -k : k) - turned(0));
#pragma unroll
        for (int j = 0; j < pack; ++j) own[i][j] = all.v[turned(j)];
      } else {
#pragma unroll
        for (int j = 0; j < pack; ++j)
          own[i][j] = k + j < l.n ? from[(k + j) * l.along[0]] : convert<T>(static_cast<A>(S::nothing));
      }
    }
    V before[packs];
#pragma unroll
    for (int i = 0; i < packs; ++i) {
      V through = static_cast<V>(widen(own[i][0]));
#pragma unroll
      for (int j = 1; j < pack; ++j) through = S()(through, static_cast<V>(widen(own[i][j])));
#pragma unroll
      for (int by = 1; by < 32; by *= 2) {
        const V left = __shfl_up_sync(~0u, through, by);
        if (lane >= by) through = S()(left, through);
      }
      if (lane == 31) totals[i * warps + warp] = through;
      before[i] = __shfl_up_sync(~0u, through, 1);
      if (lane == 0) before[i] = S::nothing;
    }
    __syncthreads();
    // Every warp joins what all of them came to, and takes what comes before its own packs.
    V through[each];
#pragma unroll
    for (int e = 0; e < each; ++e) {
      through[e] = lane * each < sums ? totals[lane * each + e] : S::nothing;
      if (e > 0) through[e] = S()(through[e - 1], through[e]);
    }
    V all = through[each - 1];
#pragma unroll
    for (int by = 1; by < 32; by *= 2) {
      const V left = __shfl_up_sync(~0u, all, by);
      if (lane >= by) all = S()(left, all);
    }
    V left = __shfl_up_sync(~0u, all, 1);
    left = lane == 0 ? done : S()(done, left);
#pragma unroll
    for (int i = 0; i < packs; ++i) {
      const int which = i * warps + warp;
      V start = __shfl_sync(~0u, left, which / each);
#pragma unroll
      for (int e = 0; e + 1 < each; ++e) {
        const V more = __shfl_sync(~0u, through[e], which / each);
        if (which % each == e + 1) start = S()(start, more);
      }
      start = S()(start, before[i]);
      const int64_t k = first + i * threads * pack;
      V y[pack];
#pragma unroll
      for (int j = 0; j < pack; ++j) {
        y[j] = static_cast<V>(widen(own[i][j]));
        if (j > 0) y[j] = S()(y[j - 1], y[j]);
      }
      if (writes && k + pack <= l.n) {
        To result;
#pragma unroll
        for (int j = 0; j < pack; ++j) result.v[turned(j)] = convert<Result>(S()(start, y[j]));
        *reinterpret_cast<To*>(to + (back ? -k : k) - turned(0)) = result;
      } else {
#pragma unroll
        for (int j = 0; j < pack; ++j)
          if (k + j < l.n) to[(k + j) * l.along[1]] = convert<Result>(S()(start, y[j]));
      }
    }
    done = S()(done, __shfl_sync(~0u, all, 31));
    __syncthreads();
  }
}
#else
constexpr int threads = 256, items = 8;
constexpr int64_t chunk = threads * items;  // as in scan.cpp

extern "C" __global__ void __launch_bounds__(256)
    scan_lines(const __grid_constant__ Lines l, const __grid_constant__ Data p) {
  if (global_thread() >= l.lines) return;
  At at = line_of(l, global_thread());
  V v;
  for (int64_t i = 0; i < l.n; ++i, advance(l, at)) {
    const V own = S::load(l, p, at, i);
    v = i == 0 ? own : S()(v, own);
    S::store(p, at, v);
  }
}

// A thread's elements of a chunk, joined one after the other.
struct Own {
  At at;
  int64_t first, count;
  V values[items];
};
template <class Q>
bool load_pack(const Lines& l, const Data& p, Own& o) {
  if constexpr (in_packs<Q>) {
    using P = Pack<T, items>;
    const T* from = static_cast<const T*>(p.a) + o.at.k[0];
    if (o.count < items || !fits<P>(from, l.along[0])) return false;
    const P pack = *reinterpret_cast<const P*>(from);
#pragma unroll
    for (int i = 0; i < items; ++i) {
      const auto own = static_cast<typename Q::V>(widen(pack.v[i]));
      o.values[i] = i == 0 ? own : Q()(o.values[i - 1], own);
    }
    return true;
  }
  return false;
}
template <class Q>
bool store_pack(const Lines& l, const Data& p, const Own& o, const V& before, bool nothing) {
  if constexpr (in_packs<Q>) {
    using P = Pack<Result, items>;
    Result* to = static_cast<Result*>(p.c) + o.at.k[1];
    if (o.count < items || !fits<P>(to, l.along[1])) return false;
    P pack;
#pragma unroll
    for (int i = 0; i < items; ++i) pack.v[i] = convert<Result>(nothing ? o.values[i] : Q()(before, o.values[i]));
    *reinterpret_cast<P*>(to) = pack;
    return true;
  }
  return false;
}
inline Own own_of(const Lines& l, const Data& p, int64_t chunks) {
  Own o;
  o.at = line_of(l, blockIdx.x / chunks);
  o.first = blockIdx.x % chunks * chunk + threadIdx.x * items;
  o.count = l.n - o.first < items ? l.n - o.first : items;
  advance(l, o.at, o.first);
  if (load_pack<S>(l, p, o)) return o;
  At at = o.at;
#pragma unroll
  for (int i = 0; i < items; ++i)
    if (i < o.count) {
      const V own = S::load(l, p, at, o.first + i);
      o.values[i] = i == 0 ? own : S()(o.values[i - 1], own);
      advance(l, at);
    }
  return o;
}
// Threads beyond a line's end bring nothing, and nothing comes after them.
inline Prefix<V> before_mine(const Own& o) {
  V own{};
#pragma unroll
  for (int i = 0; i < items; ++i)
    if (i == 0 || i < o.count) own = o.values[i];
  return scan_block<threads>(own, S());
}

// [lines, chunks]: what a chunk comes to. Only whole chunks are asked for.
extern "C" __global__ void __launch_bounds__(threads)
    scan_totals(const __grid_constant__ Lines l, const __grid_constant__ Data p, V* totals, int64_t chunks) {
  const V all = before_mine(own_of(l, p, chunks)).all;
  if (threadIdx.x == 0) totals[blockIdx.x] = all;
}
// A block a line: totals become what comes before the chunk after each.
extern "C" __global__ void __launch_bounds__(threads) scan_carry(V* totals, int64_t chunks) {
  V* own = totals + blockIdx.x * chunks;
  V done{};
  for (int64_t first = 0; first < chunks; first += threads) {
    const int64_t at = first + threadIdx.x;
    const V mine = at < chunks ? own[at] : V{};
    const Prefix<V> p = scan_block<threads>(mine, S());
    if (at < chunks) {
      V through = threadIdx.x == 0 ? mine : S()(p.before, mine);
      if (first > 0) through = S()(done, through);
      own[at] = through;
    }
    done = first > 0 ? S()(done, p.all) : p.all;
  }
}
extern "C" __global__ void __launch_bounds__(threads)
    scan_chunks(const __grid_constant__ Lines l, const __grid_constant__ Data p, const V* totals, int64_t chunks) {
  const Own o = own_of(l, p, chunks);
  const Prefix<V> prefix = before_mine(o);
  const bool first = blockIdx.x % chunks == 0;
  V before = prefix.before;
  if (!first) before = threadIdx.x == 0 ? totals[blockIdx.x - 1] : S()(totals[blockIdx.x - 1], before);
  const bool nothing = first && threadIdx.x == 0;
  if (store_pack<S>(l, p, o, before, nothing)) return;
  At at = o.at;
#pragma unroll
  for (int i = 0; i < items; ++i)
    if (i < o.count) {
      S::store(p, at, nothing ? o.values[i] : S()(before, o.values[i]));
      advance(l, at);
    }
}
#endif

}  // namespace flame
