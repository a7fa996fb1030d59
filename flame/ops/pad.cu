// A tensor inside a larger one, whose memory is dense: a thread makes FLAME_V neighbours. FLAME_T: the dtype; FLAME_MODE: 0
// constant, 1 reflect, 2 replicate, 3 circular; FLAME_I: of places. FLAME_WHOLE: they are neighbours in x too; otherwise they may go
// on in the next row. FLAME_STEP: between elements of a row of x, if known.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using I = FLAME_I;
constexpr int V = FLAME_V;

// As in pad.cpp. Axes in the order of memory, slowest first.
struct Axis {
  Split size;  // padded
  I in_size, before, stride;
};
struct Walk {
  I count;
  int32_t rank;
  Axis axis[8];
};
inline I source_of(I k, I before, I n) {
  const I j = k - before;
  if (static_cast<std::make_unsigned_t<I>>(j) < static_cast<std::make_unsigned_t<I>>(n)) return j;
  if (FLAME_MODE == 1) return j < 0 ? -j : 2 * (n - 1) - j;
  if (FLAME_MODE == 2) return j < 0 ? 0 : n - 1;
  if (FLAME_MODE == 3) return j < 0 ? j + n : j - n;
  return -1;
}
// Where a row of the last axis begins in x, less what stands before it.
struct Row {
  I at;
  bool inside;
};
inline Row row_of(const Walk& w, I row) {
  Row r{0, true};
#pragma unroll 1
  for (int k = w.rank - 2; k >= 0; --k) {
    const Axis& a = w.axis[k];
    const I q = quotient(row, a.size), j = source_of(row - q * static_cast<I>(a.size.n), a.before, a.in_size);
    r.inside &= j >= 0;
    r.at += j * a.stride;
    row = q;
  }
  return r;
}

extern "C" __global__ void __launch_bounds__(256)
    pad(const __grid_constant__ Walk w, const T* __restrict__ x, T* __restrict__ out, T value) {
  const int64_t first = global_thread() * V;
  if (first >= w.count) return;
  const Axis& last = w.axis[w.rank - 1];
  const I n = static_cast<I>(last.size.n), row = quotient(static_cast<I>(first), last.size),
          k = static_cast<I>(first) - row * n;
  const Row here = row_of(w, row);
  Pack<T, V> made;
#ifdef FLAME_WHOLE
  if (here.inside) {
    made = *reinterpret_cast<const Pack<T, V>*>(x + here.at + k);
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v) made.v[v] = value;
  }
#else
  const Row next = k + V > n ? row_of(w, row + 1) : Row{0, false};
  // Bit v: neighbour v is an element of x, in this row or in the next.
  const auto bits = [&](const Row& r, I from) {
    const auto clamped = [](I v) { return static_cast<int>(v < 0 ? 0 : v < V ? v : V); };
    const int begin = clamped(from), end = clamped(from + last.in_size);
    return r.inside ? (1 << end) - (1 << begin) : 0;
  };
  const int in_here = bits(here, last.before - k), in_next = bits(next, n + last.before - k);
  const I step = FLAME_STEP > 0 ? FLAME_STEP : last.stride;
  const T* from_here = x + (here.at + (k - last.before) * step);
  const T* from_next = x + (next.at + (k - n - last.before) * step);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    made.v[v] = value;
    if (in_here & 1 << v) made.v[v] = from_here[v * step];
    if (in_next & 1 << v) made.v[v] = from_next[v * step];
    if (FLAME_MODE > 0 && !((in_here | in_next) & 1 << v)) {
      const I j = k + v < n ? k + v : k + v - n;
      made.v[v] = x[(k + v < n ? here.at : next.at) + source_of(j, last.before, last.in_size) * step];
    }
  }
#endif
  if (first + V <= w.count) {
    *reinterpret_cast<Pack<T, V>*>(out + first) = made;
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (first + v < w.count) out[first + v] = made.v[v];
  }
}

}  // namespace flame
