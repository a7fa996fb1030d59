// Pooling by windows of few places that are known when this is compiled: a thread makes FLAME_V neighbours, their loops written
// out, sums in the CPU's order. FLAME_T: the dtype; FLAME_WINDOW: kernel, stride and padding by axis; FLAME_PLACE: of a maximum,
// int32_t its place in the plane, uint8_t its number in the window. FLAME_ROW: 0 if neighbours are channels; else they follow
// each other along the last axis, and as many elements are read at once, or windows FLAME_STEP. FLAME_PASS: which kernel, as in
// PoolPass.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using A = computed<T>;
using Place = FLAME_PLACE;
constexpr int V = FLAME_V, P = FLAME_ROW > 0 ? FLAME_ROW : V;
constexpr bool rows = FLAME_ROW > 0;
constexpr int window[3][3] = {FLAME_WINDOW};
constexpr int kernel(int axis) { return window[axis][0]; }
constexpr int stride(int axis) { return window[axis][1]; }
constexpr int padding(int axis) { return window[axis][2]; }
constexpr int over(int axis) { return (kernel(axis) - 1) / stride(axis) + 1; }  // windows over an element, at most
constexpr A least = -std::numeric_limits<A>::infinity();

// As in pool_device_internal.h.
struct FixedPool {
  int32_t count, channels, divisor;  // count: of threads; channels: 1 if each has a plane of its own
  int32_t size[3], out[3];
  Split split[4];  // of what is made, by V: channels, width, height, depth
  bool count_padding;
};

// A thread's first number: its place, and where image and channel begin in the other tensor.
struct At {
  int32_t place[3], first;
};
inline At at_of(const FixedPool& p, int32_t i, const int32_t* other) {
  At a;
  const auto split = [&](const Split& s) {
    const int32_t q = quotient(i, s), rest = i - q * static_cast<int32_t>(s.n);
    i = q;
    return rest;
  };
  const int32_t channel = split(p.split[0]) * V;
#pragma unroll
  for (int k = 2; k >= 0; --k) a.place[k] = split(p.split[3 - k]);
  if (rows) a.place[2] *= V;
  a.first = i * other[0] * other[1] * other[2] * p.channels + channel;
  return a;
}
inline int32_t start_of(int axis, int32_t o) { return o * stride(axis) - padding(axis); }
// The first output whose window reaches over `at`; it may be negative.
constexpr int32_t first_over(int axis, int32_t at) {
  const int32_t from = at + padding(axis) - (kernel(axis) - 1);  // over stride, rounded up; -kernel < from
  return static_cast<int32_t>(static_cast<uint32_t>(from + stride(axis) * kernel(axis) + stride(axis) - 1) /
                              stride(axis)) -
         kernel(axis);
}
inline bool inside(int32_t at, int32_t n) { return static_cast<uint32_t>(at) < static_cast<uint32_t>(n); }

template <int size>
struct WordOf {
  using type = uint32_t;
};
template <>
struct WordOf<1> {
  using type = uint8_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};
// n numbers as they lie in memory, held as words: halves and bytes would be moved one by one.
template <class E, int n>
struct Words {
  static constexpr int bytes = sizeof(E) * n, size = bytes < 4 ? bytes : 4, count = bytes / size;
  static constexpr int part = count < 4 ? count : 4;  // 16 bytes
  using Word = typename WordOf<size>::type;
  Word w[count];
  void load(const E* p) {
#pragma unroll
    for (int k = 0; k < count; k += part) {
      const Pack<Word, part> v = reinterpret_cast<const Pack<Word, part>*>(p)[k / part];
#pragma unroll
      for (int i = 0; i < part; ++i) w[k + i] = v.v[i];
    }
  }
  void store(E* p) const {
#pragma unroll
    for (int k = 0; k < count; k += part) {
      Pack<Word, part> v;
#pragma unroll
      for (int i = 0; i < part; ++i) v.v[i] = w[k + i];
      reinterpret_cast<Pack<Word, part>*>(p)[k / part] = v;
    }
  }
  void fill(E e) {
#pragma unroll
    for (int i = 0; i < n; ++i) set(i, e);
  }
  E get(int i) const {
    if constexpr (sizeof(E) == 8) return std::bit_cast<E>(w[2 * i] | static_cast<uint64_t>(w[2 * i + 1]) << 32);
    else if constexpr (sizeof(E) == 4) return std::bit_cast<E>(w[i]);
    else return std::bit_cast<E>(static_cast<typename WordOf<sizeof(E)>::type>(w[i / per] >> shift(i)));
  }
  void set(int i, E e) {
    if constexpr (sizeof(E) == 8) {
      w[2 * i] = static_cast<uint32_t>(std::bit_cast<uint64_t>(e));
      w[2 * i + 1] = static_cast<uint32_t>(std::bit_cast<uint64_t>(e) >> 32);
    } else if constexpr (sizeof(E) == 4) {
      w[i] = std::bit_cast<uint32_t>(e);
    } else {
      const Word bits = static_cast<Word>(std::bit_cast<typename WordOf<sizeof(E)>::type>(e) << shift(i));
      w[i / per] = i % per == 0 ? bits : w[i / per] | bits;  // in order
    }
  }
  uint32_t word(int i) const { return w[i / per]; }  // that holds number i
  // Whether number i is `e`, given words full of e.
  bool is(int i, E e, uint32_t full) const {
    if constexpr (sizeof(E) == 1) return ((w[i / per] ^ full) & 0xffu << shift(i)) == 0;
    else return get(i) == e;
  }

 private:
  static constexpr int per = size / sizeof(E) > 0 ? size / sizeof(E) : 1;
  static constexpr int shift(int i) { return i % per * 8 * static_cast<int>(sizeof(E)); }
};

// The elements that V windows meet in a row, `none` where there are none. (v, s): place s of window v.
struct Row {
  static constexpr int lead = rows ? (P - padding(2) % P) % P : 0;
  static constexpr int packs = rows ? (lead + (V - 1) * stride(2) + kernel(2) + P - 1) / P : kernel(2);
  Words<T, P> x[packs];
  Row(const FixedPool& p, const T* row, int32_t start, bool counts, T none) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
      const int32_t at = start + (rows ? k * P - lead : k);
      x[k].fill(none);
      if (counts && inside(at, p.size[2])) x[k].load(row + at * p.channels);
    }
  }
  static constexpr int at(int v, int s) { return rows ? lead + v * stride(2) + s : s * V + v; }
  T operator()(int v, int s) const { return x[at(v, s) / P].get(at(v, s) % P); }
  // Of two windows, v and v + 1, as halves of a word.
  uint32_t pair(int v, int s) const {
    const int a = at(v, s), b = at(v + 1, s);
    const uint32_t low = x[a / P].word(a % P), high = x[b / P].word(b % P);
    if (P > 1 && a % 2 == 0 && b == a + 1) return low;
    return __byte_perm(low, high, (P > 1 && a % 2 ? 0x32 : 0x10) | (P > 1 && b % 2 ? 0x7600 : 0x5400));
  }
};
// fn(row, s, number in the window) for place s of each row, in the order of the window's elements.
template <class F>
void each_place(const FixedPool& p, const At& at, const T* x, T none, F fn) {
  const int32_t d = start_of(0, at.place[0]), h = start_of(1, at.place[1]), w = start_of(2, at.place[2]);
#pragma unroll
  for (int q = 0; q < kernel(0); ++q)
#pragma unroll
    for (int r = 0; r < kernel(1); ++r) {
      const int32_t first = ((d + q) * p.size[1] + h + r) * p.size[2] * p.channels + at.first;
      const Row row(p, x + first, w, inside(d + q, p.size[0]) && inside(h + r, p.size[1]), none);
#pragma unroll
      for (int s = 0; s < kernel(2); ++s) fn(row, s, (q * kernel(1) + r) * kernel(2) + s);
    }
}
// The place in the plane of an element of the window at (d, h, w).
inline int32_t place_of(const FixedPool& p, int32_t d, int32_t h, int32_t w, int32_t number) {
  const int32_t s = number % kernel(2), r = number / kernel(2) % kernel(1), q = number / (kernel(2) * kernel(1));
  return ((start_of(0, d) + q) * p.size[1] + start_of(1, h) + r) * p.size[2] + start_of(2, w) + s;
}
// The number of a window's first element inside x; padding is less than the window.
inline int32_t first_inside(int axis, int32_t o) {
  const int32_t start = start_of(axis, o);
  return padding(axis) > 0 && start < 0 ? -start : 0;
}

#if FLAME_PASS == 0
// The largest element met by V windows and its number there: the first of equals; a NaN beats all but an earlier one.
struct Best {
  A value[V];
  int32_t place[V];
  void begin(int v, int32_t first) {
    value[v] = least;
    place[v] = first;
  }
  void take(const Row& row, int s, int n) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const A e = widen(row(v, s));
      if (!(e <= value[v]) && value[v] == value[v]) {
        value[v] = e;
        place[v] = n;
      }
    }
  }
  T best(int v) const { return convert<T>(value[v]); }
  int32_t number(int v) const { return place[v]; }
};
#if __CUDA_ARCH__ >= 900
constexpr bool in_pairs = V % 2 == 0 && (std::is_same_v<T, half> || std::is_same_v<T, bhalf>);
#else
constexpr bool in_pairs = false;
#endif
// Ones in the halves of a word where a and b compare so.
#define FLAME_COMPARE(name, what)                                                                                   \
  template <class E>                                                                                                \
  uint32_t name(uint32_t a, uint32_t b) {                                                                           \
    uint32_t mask;                                                                                                  \
    if constexpr (std::is_same_v<E, half>) asm("set." what ".u32.f16x2 %0, %1, %2;" : "=r"(mask) : "r"(a), "r"(b)); \
    else asm("set." what ".u32.bf16x2 %0, %1, %2;" : "=r"(mask) : "r"(a), "r"(b));                                  \
    return mask;                                                                                                    \
  }
FLAME_COMPARE(greater_or_nan, "gtu")
FLAME_COMPARE(no_nan, "num")
#undef FLAME_COMPARE
// The same of two numbers of 16 bits at a time.
template <class E>
struct BestPairs {
  uint32_t value[(V + 1) / 2], place[(V + 1) / 2];
  void begin(int v, int32_t first) {
    const uint32_t bits = std::bit_cast<uint16_t>(convert<E>(least));
    value[v / 2] = bits | bits << 16;
    place[v / 2] = v % 2 ? place[v / 2] | first << 16 : first;
  }
  void take(const Row& row, int s, int n) {
#pragma unroll
    for (int v = 0; v < V; v += 2) {
      uint32_t &best = value[v / 2], &where = place[v / 2];
      const uint32_t e = row.pair(v, s), better = greater_or_nan<E>(e, best) & no_nan<E>(best, best);
      best = (e & better) | (best & ~better);
      where = (n * 0x10001u & better) | (where & ~better);
    }
  }
  E best(int v) const { return std::bit_cast<E>(static_cast<uint16_t>(value[v / 2] >> v % 2 * 16)); }
  int32_t number(int v) const { return place[v / 2] >> v % 2 * 16 & 0xffff; }
};
template <bool which, class X, class Y>
struct Either {
  using type = X;
};
template <class X, class Y>
struct Either<false, X, Y> {
  using type = Y;
};

extern "C" __global__ void __launch_bounds__(256) max_pool(const __grid_constant__ FixedPool p, const T* __restrict__ x,
                                                           Place* __restrict__ index, T* __restrict__ y) {
  const int32_t i = static_cast<int32_t>(global_thread());
  if (i >= p.count) return;
  const At at = at_of(p, i, p.size);
  typename Either<in_pairs, BestPairs<T>, Best>::type best;
#pragma unroll
  for (int v = 0; v < V; ++v)
    best.begin(v, (first_inside(0, at.place[0]) * kernel(1) + first_inside(1, at.place[1])) * kernel(2) +
                      first_inside(2, at.place[2] + (rows ? v : 0)));
  each_place(p, at, x, convert<T>(least), [&](const Row& row, int s, int n) { best.take(row, s, n); });
  Words<T, V> out;
  Words<Place, V> where;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    out.set(v, best.best(v));
    const int32_t n = best.number(v), place = place_of(p, at.place[0], at.place[1], at.place[2] + (rows ? v : 0), n);
    where.set(v, static_cast<Place>(sizeof(Place) == 1 ? n : place));
  }
  out.store(y + i * V);
  where.store(index + i * V);
}
#endif

// What dx gets from: the windows over its elements. Neighbours along the last axis begin at a multiple of the stride, so where they
// stand in their windows is known here; those windows are read by `step` at once, as their number is a multiple of it.
constexpr int step = rows ? FLAME_STEP : 1, first_across = rows ? first_over(2, 0) : 0,
              across = rows ? (V - 1 + padding(2)) / stride(2) - first_across + 1 : over(2),
              lead_across = (first_across % step + step) % step;
// The numbers of an out tensor that lie at windows first, first + 1, ...: of V channels each, or of one plane.
template <class E>
struct Across {
  static constexpr int n = rows ? step : V, packs = rows ? (lead_across + across + step - 1) / step : across;
  Words<E, n> v[packs];
  Across(const FixedPool& p, const E* row, int32_t first, bool counts, E none) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
      const int32_t at = first + (rows ? k * step - lead_across : k);
      v[k].fill(none);
      if (counts && inside(at, p.out[2])) v[k].load(row + at * p.channels);
    }
  }
  E get(int window, int channel) const {
    const int i = rows ? lead_across + window : window * V + channel;
    return v[i / n].get(i % n);
  }
  bool is(int window, int channel, int32_t number) const {
    const int i = rows ? lead_across + window : window * V + channel;
    return v[i / n].is(i % n, static_cast<E>(number), static_cast<uint32_t>(number) * 0x01010101u);
  }
};
// fn(d, h, first window across, where the row of windows begins, number of the window's first element in their row of elements,
// whether that counts) for the rows of windows over an element, in order.
template <class F>
void each_row_of_windows(const FixedPool& p, const At& at, F fn) {
  const int32_t d = first_over(0, at.place[0]), h = first_over(1, at.place[1]);
  const int32_t w = rows ? at.place[2] / stride(2) + first_across : first_over(2, at.place[2]);
#pragma unroll
  for (int q = 0; q < over(0); ++q)
#pragma unroll
    for (int r = 0; r < over(1); ++r) {
      const int32_t in_d = at.place[0] - start_of(0, d + q), in_h = at.place[1] - start_of(1, h + r);
      fn(d + q, h + r, w, ((d + q) * p.out[1] + h + r) * p.out[2] * p.channels + at.first,
         (in_d * kernel(1) + in_h) * kernel(2),
         inside(d + q, p.out[0]) && inside(h + r, p.out[1]) && inside(in_d, kernel(0)) && inside(in_h, kernel(1)));
    }
}
// Where neighbour v stands in the window that is number s across; of channels, their common place.
inline int32_t place_in(const At& at, int32_t w, int s, int v) {
  return rows ? v + padding(2) - (first_across + s) * stride(2) : at.place[2] - start_of(2, w + s);
}

#if FLAME_PASS == 1
extern "C" __global__ void __launch_bounds__(256)
    max_pool_backward(const __grid_constant__ FixedPool p, const T* __restrict__ dy, const Place* __restrict__ index,
                      T* __restrict__ dx) {
  const int32_t i = static_cast<int32_t>(global_thread());
  if (i >= p.count) return;
  const At at = at_of(p, i, p.out);
  const int32_t own = (at.place[0] * p.size[1] + at.place[1]) * p.size[2] + at.place[2];
  A sum[V] = {};
  each_row_of_windows(p, at, [&](int32_t, int32_t, int32_t w, int32_t o, int32_t number, bool counts) {
    const Across<T> g(p, dy + o, w, counts, convert<T>(A(0)));
    const Across<Place> won(p, index + o, w, counts, static_cast<Place>(-1));
#pragma unroll
    for (int s = 0; s < across; ++s)
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int32_t in_w = place_in(at, w, s, v);
        if (!inside(in_w, kernel(2))) continue;
        const int32_t want = sizeof(Place) == 1 ? number + in_w : own + (rows ? v : 0);
        if (won.is(s, v, want)) sum[v] += widen(g.get(s, v));
      }
  });
  Words<T, V> out;
#pragma unroll
  for (int v = 0; v < V; ++v) out.set(v, convert<T>(sum[v]));
  out.store(dx + i * V);
}
#endif

#if FLAME_PASS == 2
extern "C" __global__ void __launch_bounds__(256)
    max_pool_gather(const __grid_constant__ FixedPool p, const T* __restrict__ x, const Place* __restrict__ index,
                    T* __restrict__ y) {
  const int32_t i = static_cast<int32_t>(global_thread());
  if (i >= p.count) return;
  const At at = at_of(p, i, p.size);
  Words<T, V> out;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int32_t n = index[i * V + v], beside = rows ? v : 0;
    const int32_t place = sizeof(Place) == 1 ? place_of(p, at.place[0], at.place[1], at.place[2] + beside, n) : n;
    out.set(v, x[at.first + place * p.channels + (rows ? 0 : v)]);
  }
  out.store(y + i * V);
}
#endif

// Quotients by the number of elements that a window counts.
inline int32_t counted(const FixedPool& p, int axis, int32_t o) {
  const int32_t edge = p.count_padding ? padding(axis) : 0, start = start_of(axis, o);
  const int32_t begin = start > -edge ? start : -edge, end = start + kernel(axis), most = p.size[axis] + edge;
  return (end < most ? end : most) - begin;
}
inline float inverse_of(float n) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(n));
  return fmaf(fmaf(-r, n, 1.0f), r, r);
}
inline double inverse_of(double n) { return 1 / n; }
struct Mean {
  A by, inverse;
  Mean(const FixedPool& p, int32_t d, int32_t h, int32_t w) {
    by = static_cast<A>(p.divisor ? p.divisor : counted(p, 0, d) * counted(p, 1, h) * counted(p, 2, w));
    inverse = inverse_of(by);
  }
  // A product and its correction, which is the rounded quotient (Markstein, IBM Journal of Research and Development 1990).
  A operator()(A sum) const {
    const A q = sum * inverse, corrected = std::fma(std::fma(-q, by, sum), inverse, q);
    return std::fabs(q) < std::numeric_limits<A>::infinity() ? corrected : q;
  }
};

#if FLAME_PASS == 3
extern "C" __global__ void __launch_bounds__(256)
    average(const __grid_constant__ FixedPool p, const T* __restrict__ x, T* __restrict__ y) {
  const int32_t i = static_cast<int32_t>(global_thread());
  if (i >= p.count) return;
  const At at = at_of(p, i, p.size);
  A sum[V] = {};
  each_place(p, at, x, convert<T>(A(0)), [&](const Row& row, int s, int) {
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] += widen(row(v, s));
  });
  Words<T, V> out;
  const Mean first(p, at.place[0], at.place[1], at.place[2]);
#pragma unroll
  for (int v = 0; v < V; ++v)
    out.set(v, convert<T>((rows ? Mean(p, at.place[0], at.place[1], at.place[2] + v) : first)(sum[v])));
  out.store(y + i * V);
}
#endif

#if FLAME_PASS == 4
extern "C" __global__ void __launch_bounds__(256)
    average_backward(const __grid_constant__ FixedPool p, const T* __restrict__ dy, T* __restrict__ dx) {
  const int32_t i = static_cast<int32_t>(global_thread());
  if (i >= p.count) return;
  const At at = at_of(p, i, p.out);
  A sum[V] = {};
  each_row_of_windows(p, at, [&](int32_t d, int32_t h, int32_t w, int32_t o, int32_t, bool counts) {
    const Across<T> g(p, dy + o, w, counts, convert<T>(A(0)));
#pragma unroll
    for (int s = 0; s < across; ++s) {
      const Mean mean(p, d, h, w + s);
      constexpr int n = rows ? 1 : V;
      A part[n];
#pragma unroll
      for (int v = 0; v < n; ++v) part[v] = mean(widen(g.get(s, v)));
      const bool meant = counts && inside(w + s, p.out[2]);  // nothing may be counted elsewhere
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (meant && inside(place_in(at, w, s, v), kernel(2))) sum[v] += part[rows ? 0 : v];
    }
  });
  Words<T, V> out;
#pragma unroll
  for (int v = 0; v < V; ++v) out.set(v, convert<T>(sum[v]));
  out.store(dx + i * V);
}
#endif

}  // namespace flame
