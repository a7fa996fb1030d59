// Attention of 16-bit dtypes on tensor cores (Dao 2023): a warp owns 16 or 32 rows and keeps their weights in registers, the
// other side streams through two buffers of shared memory. Weights are rounded to the dtype before the second product.
// FLAME_WIDTH: columns of the rows, a multiple of 32, zeros beyond; FLAME_PASS: 0 forward, 1 backward to the queries,
// 2 backward to keys and values.
#include "flame/fuse/tensor_cores.cuh"
#include "flame/ops/attention_dropout.cuh"

namespace flame {

constexpr int wide = FLAME_WIDTH;
constexpr int pitch = wide + 8;  // so that eight rows lie in different banks
constexpr int pass = FLAME_PASS;
// Of 16 rows, in a warp: two where registers allow, since what the other side loads then serves twice.
constexpr int parts = with_dropout || (pass > 0 && wide > 64) ? 1 : 2;
constexpr int threads = pass == 0 || parts == 1 ? 128 : 64;
constexpr int own = threads / 2 * parts;                   // rows of a block
constexpr int step = pass > 0 ? 32 : wide > 96 ? 48 : 64;  // rows in a buffer
constexpr float log2e = 1.4426950408889634f;
constexpr bool brain = std::is_same_v<T, bhalf>;
extern __shared__ __align__(16) unsigned char memory[];

// `rows` rows from `first` on, zeros beyond `count` and `width`.
template <int rows>
void load(T* to, const T* from, int64_t row, int64_t first, int64_t count, int64_t width) {
  constexpr int pieces = wide / 8;
#pragma unroll
  for (int i = threadIdx.x; i < rows * pieces; i += threads) {
    const int r = i / pieces, c = i % pieces * 8;
    const bool there = first + r < count && c < width;
    copy16(to + r * pitch + c, there ? from + (first + r) * row + c : from, there);
  }
}

// Of a warp's rows x and `step` rows y. In each part a thread has rows lane / 4 and 8 further, columns 8t + lane % 4 * 2 and
// the next.
using Scores = float[parts][step / 8][4];
using Sums = float[parts][wide / 8][4];
inline void products(const T* x, const T* y, Scores& s) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < parts; ++h)
#pragma unroll
    for (int t = 0; t < step / 8; ++t) s[h][t][0] = s[h][t][1] = s[h][t][2] = s[h][t][3] = 0;
#pragma unroll
  for (int c = 0; c < wide; c += 16) {
    uint32_t a[parts][4], b[4];
#pragma unroll
    for (int h = 0; h < parts; ++h) load4(a[h], x + (16 * h + lane % 16) * pitch + c + lane / 16 * 8);
#pragma unroll
    for (int t = 0; t < step / 8; t += 2) {
      load4(b, y + (t * 8 + lane % 8 + lane / 16 * 8) * pitch + c + lane / 8 % 2 * 8);
#pragma unroll
      for (int h = 0; h < parts; ++h) {
        multiply<brain>(s[h][t], a[h], b[0], b[1]);
        multiply<brain>(s[h][t + 1], a[h], b[2], b[3]);
      }
    }
  }
}
// sum += weights, rounded, times the rows y.
inline void accumulate(const Scores& weights, const T* y, Sums& sum) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int t = 0; t < step / 8; t += 2) {
    uint32_t a[parts][4], b[4];
#pragma unroll
    for (int h = 0; h < parts; ++h)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float(&w)[4] = weights[h][t + e / 2];
        a[h][e] = e % 2 ? packed<brain>(w[2], w[3]) : packed<brain>(w[0], w[1]);
      }
#pragma unroll
    for (int u = 0; u < wide / 8; u += 2) {
      load4_transposed(b, y + (t * 8 + lane % 16) * pitch + u * 8 + lane / 16 * 8);
#pragma unroll
      for (int h = 0; h < parts; ++h) {
        multiply<brain>(sum[h][u], a[h], b[0], b[1]);
        multiply<brain>(sum[h][u + 1], a[h], b[2], b[3]);
      }
    }
  }
}
inline void clear(Sums& sum) {
#pragma unroll
  for (int h = 0; h < parts; ++h)
#pragma unroll
    for (int u = 0; u < wide / 8; ++u) sum[h][u][0] = sum[h][u][1] = sum[h][u][2] = sum[h][u][3] = 0;
}
// The row of element e of part h, from the block's first one on.
inline int row_of(int h, int e) { return (threadIdx.x / 32 * parts + h) * 16 + threadIdx.x % 32 / 4 + e / 2 * 8; }
inline int column_of(int t, int e) { return t * 8 + threadIdx.x % 4 * 2 + e % 2; }
inline void store(const Sums& sum, const float (&by)[parts][2], T* out, int64_t row, int64_t first, int64_t count,
                  int64_t width) {
#pragma unroll
  for (int h = 0; h < parts; ++h)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      const int64_t i = first + row_of(h, e);
      if (i >= count) continue;
#pragma unroll
      for (int u = 0; u < wide / 8; ++u) {
        const int c = column_of(u, 0);
        if (c < width)
          *reinterpret_cast<uint32_t*>(out + i * row + c) =
              packed<brain>(sum[h][u][e] * by[h][e / 2], sum[h][u][e + 1] * by[h][e / 2]);
      }
    }
}

inline const T* rows_of_warp(const T* x) { return x + threadIdx.x / 32 * parts * 16 * pitch; }
// fetch(tile, buffer) and work(tile, buffer) for tiles in turn, the next one on its way while one is worked on.
template <class Fetch, class Work>
void in_turn(int64_t tiles, const Fetch& fetch, const Work& work) {
  if (tiles > 0) fetch(int64_t{0}, 0);
  int which = 0;
  for (int64_t tile = 0; tile < tiles; ++tile, which ^= 1) {
    if (tile + 1 < tiles) {
      fetch(tile + 1, which ^ 1);
      wait<1>();
    } else {
      wait<0>();
    }
    __syncthreads();
    work(tile, which);
    __syncthreads();
  }
  wait<0>();
}

#if FLAME_PASS < 2
// A block's queries and what they look at.
struct Queries {
  const Problem& p;
  const Place at;
  const int64_t row0;  // the first of the head's rows
  const T *keys, *values;
  const Mask* mask;
  Queries(const Problem& p, const T* k, const T* v, const Mask* m)
      : p(p), at(p.heads, p.queries, own, p.causal), row0((at.batch * p.heads + at.head) * p.queries) {
    const int64_t shared = at.head / (p.heads / p.shared);
    keys = matrix(k, p.k, at.batch, shared);
    values = matrix(v, p.v, at.batch, shared);
    mask = with_mask ? matrix(m, p.mask, at.batch, at.head) : m;
  }
  // work(first key, keys, values, whether scores need a look at mask or ends)
  template <class Work>
  void over_keys(T* buffers, const Work& work) const {
    const int64_t end = p.causal ? lesser(p.keys, at.first + own) : p.keys;
    const auto fetch = [&](int64_t tile, int which) {
      T* to = buffers + 2 * which * step * pitch;
      load<step>(to, keys, p.k[2], tile * step, p.keys, p.width);
      load<step>(to + step * pitch, values, p.v[2], tile * step, p.keys, p.depth);
      commit();
    };
    in_turn((end + step - 1) / step, fetch, [&](int64_t tile, int which) {
      const int64_t first = tile * step;
      const T* from = buffers + 2 * which * step * pitch;
      work(first, from, from + step * pitch,
           with_mask || first + step > p.keys || (p.causal && first + step > at.first));
    });
  }
};
#endif

#if FLAME_PASS == 0
extern "C" __global__ void __launch_bounds__(threads)
    forward(const __grid_constant__ Problem p, const T* q, const T* k, const T* v, const Mask* mask, T* out, A* lse) {
  const Queries of(p, k, v, mask);
  const Place& at = of.at;
  const int64_t row0 = of.row0;
  T* x = reinterpret_cast<T*>(memory);
  T* buffers = x + own * pitch;
  Sums sum;
  clear(sum);
  float top[parts][2], total[parts][2];
#pragma unroll
  for (int h = 0; h < parts; ++h) {
    top[h][0] = top[h][1] = none;
    total[h][0] = total[h][1] = 0;
  }
  const float scale = static_cast<float>(p.scale);
  load<own>(x, matrix(q, p.q, at.batch, at.head), p.q[2], at.first, p.queries, p.width);
  of.over_keys(buffers, [&](int64_t first, const T* keys, const T* values, bool edge) {
    Scores s;
    products(rows_of_warp(x), keys, s);
#pragma unroll
    for (int h = 0; h < parts; ++h) {
      float most[2] = {top[h][0], top[h][1]}, factor[2], base[2];
#pragma unroll
      for (int t = 0; t < step / 8; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& x = s[h][t][e];
          x = edge ? score(p, of.mask, x, at.first + row_of(h, e), first + column_of(t, e)) : x * scale;
          most[e / 2] = fmaxf(most[e / 2], x);
        }
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        most[k] = fmaxf(most[k], __shfl_xor_sync(~0u, most[k], 1));
        most[k] = fmaxf(most[k], __shfl_xor_sync(~0u, most[k], 2));
        base[k] = most[k] == none ? 0 : most[k] * log2e;
        factor[k] = power_of_two(std::fma(top[h][k], log2e, -base[k]));
        top[h][k] = most[k];
        total[h][k] *= factor[k];
      }
#pragma unroll
      for (int t = 0; t < step / 8; ++t) {
        float keep[4];
        if constexpr (with_dropout) factors_of_rows(p, row0 + at.first + row_of(h, 0), first + column_of(t, 0), keep);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& x = s[h][t][e];
          x = power_of_two(std::fma(x, log2e, -base[e / 2]));
          total[h][e / 2] += x;
          if constexpr (with_dropout) x *= keep[e];
        }
      }
#pragma unroll
      for (int u = 0; u < wide / 8; ++u)
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[h][u][e] *= factor[e / 2];
    }
    accumulate(s, values, sum);
  });
#pragma unroll
  for (int h = 0; h < parts; ++h)
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      float& sum_of = total[h][k];
      sum_of += __shfl_xor_sync(~0u, sum_of, 1);
      sum_of += __shfl_xor_sync(~0u, sum_of, 2);
      const int64_t i = at.first + row_of(h, 2 * k);
      if (threadIdx.x % 4 == 0 && i < p.queries) lse[row0 + i] = sum_of == 0 ? -none : top[h][k] + std::log(sum_of);
      sum_of = sum_of == 0 ? 0 : 1 / sum_of;
    }
  store(sum, total, matrix(out, p.out, at.batch, at.head), p.out[2], at.first, p.queries, p.depth);
}
#else

// The weight from a product, and the slope of the scaled score: dp becomes weight * (dp - dot), x the kept weight.
inline void weigh(const Problem& p, bool edge, const Mask* mask, float scale, int64_t i, int64_t j, float lse,
                  float dot, float keep, float& x, float& dp) {
  const float w = power_of_two(std::fma(edge ? score(p, mask, x, i, j) : x * scale, log2e, -lse * log2e));
  x = w;
  if constexpr (with_dropout) {
    x *= keep;
    dp *= keep;
  }
  dp = w * (dp - dot);
}

#if FLAME_PASS == 1
extern "C" __global__ void __launch_bounds__(256)
    row_dots(const __grid_constant__ Problem p, const T* out, const T* g, A* dots) {
  row_dot(p, out, g, dots);
}
extern "C" __global__ void __launch_bounds__(threads)
    backward_queries(const __grid_constant__ Problem p, const T* q, const T* k, const T* v, const T* g, const A* lse,
                     const A* dots, const Mask* mask, T* dq) {
  const Queries of(p, k, v, mask);
  const Place& at = of.at;
  const int64_t row0 = of.row0;
  T *x = reinterpret_cast<T*>(memory), *seeds = x + own * pitch, *buffers = seeds + own * pitch;
  Sums sum;
  clear(sum);
  float own_lse[parts][2], dot[parts][2], by[parts][2];
  const float scale = static_cast<float>(p.scale);
#pragma unroll
  for (int h = 0; h < parts; ++h)
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int64_t i = at.first + row_of(h, 2 * k);
      own_lse[h][k] = i < p.queries ? lse[row0 + i] : -none;
      dot[h][k] = i < p.queries ? dots[row0 + i] : 0;
      by[h][k] = scale;
    }
  load<own>(x, matrix(q, p.q, at.batch, at.head), p.q[2], at.first, p.queries, p.width);
  load<own>(seeds, matrix(g, p.g, at.batch, at.head), p.g[2], at.first, p.queries, p.depth);
  of.over_keys(buffers, [&](int64_t first, const T* keys, const T* values, bool edge) {
    Scores s, dp;
    products(rows_of_warp(x), keys, s);
    products(rows_of_warp(seeds), values, dp);
#pragma unroll
    for (int h = 0; h < parts; ++h)
#pragma unroll
      for (int t = 0; t < step / 8; ++t) {
        float keep[4] = {};
        if constexpr (with_dropout) factors_of_rows(p, row0 + at.first + row_of(h, 0), first + column_of(t, 0), keep);
#pragma unroll
        for (int e = 0; e < 4; ++e)
          weigh(p, edge, of.mask, scale, at.first + row_of(h, e), first + column_of(t, e), own_lse[h][e / 2],
                dot[h][e / 2], keep[e], s[h][t][e], dp[h][t][e]);
      }
    accumulate(dp, keys, sum);
  });
  store(sum, by, matrix(dq, p.dq, at.batch, at.head), p.dq[2], at.first, p.queries, p.width);
}
#else

extern "C" __global__ void __launch_bounds__(threads)
    backward_keys(const __grid_constant__ Problem p, const T* q, const T* k, const T* v, const T* g, const A* lse,
                  const A* dots, const Mask* mask, T* dk, T* dv) {
  const Place at(p.shared, p.keys, own, false);
  const int64_t group = p.heads / p.shared;
  T *x = reinterpret_cast<T*>(memory), *values = x + own * pitch, *buffers = values + own * pitch;
  float* numbers = reinterpret_cast<float*>(buffers + 4 * step * pitch);  // lse and dots of each buffer
  const int64_t start = p.causal ? at.first : 0, tiles = start < p.queries ? (p.queries - start + step - 1) / step : 0;
  const auto head_of = [&](int64_t tile) { return at.head * group + tile / tiles; };
  const auto first_of = [&](int64_t tile) { return start + tile % tiles * step; };
  const auto fetch = [&](int64_t tile, int which) {
    const int64_t head = head_of(tile), first = first_of(tile);
    load<step>(buffers + 2 * which * step * pitch, matrix(q, p.q, at.batch, head), p.q[2], first, p.queries, p.width);
    load<step>(buffers + (2 * which + 1) * step * pitch, matrix(g, p.g, at.batch, head), p.g[2], first, p.queries,
               p.depth);
    if (threadIdx.x < 2 * step) {
      const A* from = threadIdx.x < step ? lse : dots;
      const int64_t i = first + threadIdx.x % step;
      const bool there = i < p.queries;
      copy4(numbers + 2 * which * step + threadIdx.x, there ? from + (at.batch * p.heads + head) * p.queries + i : from,
            there);
    }
    commit();
  };
  Sums to_keys, to_values;
  clear(to_keys);
  clear(to_values);
  const float scale = static_cast<float>(p.scale);
  load<own>(x, matrix(k, p.k, at.batch, at.head), p.k[2], at.first, p.keys, p.width);
  load<own>(values, matrix(v, p.v, at.batch, at.head), p.v[2], at.first, p.keys, p.depth);
  const int64_t count = tiles * group;
  in_turn(count, fetch, [&](int64_t tile, int which) {
    const int64_t head = head_of(tile), first = first_of(tile), row0 = (at.batch * p.heads + head) * p.queries;
    const Mask* own_mask = with_mask ? matrix(mask, p.mask, at.batch, head) : mask;
    const T *queries = buffers + 2 * which * step * pitch, *seeds = queries + step * pitch;
    const float *own_lse = numbers + 2 * which * step, *dot = own_lse + step;
    Scores s, dp;
    products(rows_of_warp(x), queries, s);
    products(rows_of_warp(values), seeds, dp);
    const bool edge = with_mask || first + step > p.queries || (p.causal && first < at.first + own);
#pragma unroll
    for (int h = 0; h < parts; ++h)
#pragma unroll
      for (int t = 0; t < step / 8; ++t) {
        float keep[4] = {};
        if constexpr (with_dropout)
          factors_of_columns(p, row0 + first + column_of(t, 0), at.first + row_of(h, 0), keep);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int i = column_of(t, e);
          weigh(p, edge, own_mask, scale, first + i, at.first + row_of(h, e), own_lse[i], dot[i], keep[e], s[h][t][e],
                dp[h][t][e]);
        }
      }
    accumulate(s, seeds, to_values);
    accumulate(dp, queries, to_keys);
  });
  float by[parts][2], one[parts][2];
#pragma unroll
  for (int h = 0; h < parts; ++h) {
    by[h][0] = by[h][1] = scale;
    one[h][0] = one[h][1] = 1;
  }
  store(to_keys, by, matrix(dk, p.dk, at.batch, at.head), p.dk[2], at.first, p.keys, p.width);
  store(to_values, one, matrix(dv, p.dv, at.batch, at.head), p.dv[2], at.first, p.keys, p.depth);
}
#endif
#endif

}  // namespace flame
