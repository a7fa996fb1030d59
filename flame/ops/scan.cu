// Scans along one axis: a thread a line, in the order of the line, with the CPU's running dtypes. FLAME_T: the dtype.
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
inline bool line_of(const Lines& l, At& at) {
  int64_t i = global_thread();
  if (i >= l.lines) return false;
  for (int t = 0; t < 3; ++t) at.k[t] = l.start[t];
  for (int64_t d = l.rank - 1; d >= 0; --d) {
    const int64_t where = i % l.shape[d];
    i /= l.shape[d];
    for (int t = 0; t < 3; ++t) at.k[t] += where * l.strides[t][d];
  }
  return true;
}
inline void advance(const Lines& l, At& at) {
  for (int t = 0; t < 3; ++t) at.k[t] += l.along[t];
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

template <bool product>
void run(const Lines& l, const T* x, Result* out) {
  At at;
  if (!line_of(l, at)) return;
  Running y = product ? 1 : 0;
  for (int64_t i = 0; i < l.n; ++i, advance(l, at)) {
    const Running v = static_cast<Running>(widen(x[at.k[0]]));
    y = i == 0 ? v : product ? y * v : y + v;
    out[at.k[1]] = convert<Result>(y);
  }
}
extern "C" __global__ void __launch_bounds__(256) cumsum(const __grid_constant__ Lines l, const T* x, Result* out) {
  run<false>(l, x, out);
}
extern "C" __global__ void __launch_bounds__(256) cumprod(const __grid_constant__ Lines l, const T* x, Result* out) {
  run<true>(l, x, out);
}

#ifdef FLAME_FLOATING
extern "C" __global__ void __launch_bounds__(256)
    linear_scan(const __grid_constant__ Lines l, const T* a, const T* b, T* out, int64_t lag) {
  At at;
  if (!line_of(l, at)) return;
  double y = 0, before = 0;
  for (int64_t i = 0; i < l.n; ++i, advance(l, at)) {
    const double now = widen(a[at.k[0]]), g = widen(b[at.k[1]]), by = lag ? before : now;
    y = i == 0 ? g : g + by * y;
    before = now;
    out[at.k[2]] = convert<T>(static_cast<A>(y));
  }
}

extern "C" __global__ void __launch_bounds__(256) logcumsumexp(const __grid_constant__ Lines l, const T* x, T* out) {
  At at;
  if (!line_of(l, at)) return;
  double m = -std::numeric_limits<double>::infinity(), s = 0;
  for (int64_t i = 0; i < l.n; ++i, advance(l, at)) {
    const double v = widen(x[at.k[0]]);
    if (v == m) s += 1;
    else if (v < m) s += ::exp(v - m);
    else {
      s = s * ::exp(m - v) + 1;
      m = v;
    }
    out[at.k[1]] = convert<T>(static_cast<A>(m + ::log(s)));
  }
}
#endif

template <bool greatest>
void extreme(const Lines& l, const T* x, T* out, int64_t* place) {
  At at;
  if (!line_of(l, at)) return;
  A best = A();
  int64_t where = -1;
  for (int64_t i = 0; i < l.n; ++i, advance(l, at)) {
    const A v = widen(x[at.k[0]]);
    if (where < 0 || v != v || (best == best && (greatest ? v >= best : v <= best))) {
      best = v;
      where = i;
    }
    out[at.k[1]] = convert<T>(best);
    place[at.k[2]] = where;
  }
}
extern "C" __global__ void __launch_bounds__(256)
    cummax(const __grid_constant__ Lines l, const T* x, T* out, int64_t* place) {
  extreme<true>(l, x, out, place);
}
extern "C" __global__ void __launch_bounds__(256)
    cummin(const __grid_constant__ Lines l, const T* x, T* out, int64_t* place) {
  extreme<false>(l, x, out, place);
}

}  // namespace flame
