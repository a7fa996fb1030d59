// Attention and its gradients by tiles of scores, for every dtype, width and stride: multiply-adds in registers out of
// shared memory, sums in tile order. A block makes FLAME_WIDTH columns of a tile's rows; wider results take more blocks.
// FLAME_PASS: 0 forward, 1 backward to the queries, 2 backward to keys and values.
#include "flame/ops/attention.cuh"

namespace flame {

constexpr int n = 16 / sizeof(A);  // numbers of a 16-byte access; a thread has m x n scores
constexpr int m = 2 * n;
constexpr int rows = 16 * m;          // of a block: queries, or keys in backward_keys
constexpr int columns = 16 * n;       // of the other side, that are met at once
constexpr int deep = 16;              // terms of a sum that are in shared memory at once
constexpr int wide = FLAME_WIDTH;     // columns of the result
constexpr int runs = wide / columns;  // a thread has n columns of each run
constexpr int threads = 256;
static_assert(wide % columns == 0, "runs are whole");

using Weights = A[columns][rows + n];
struct Buffers {
  union {
    struct {
      A x[deep][rows + n], y[deep][columns + n];
    };
    A piece[deep][wide];
  };
};

// Rows of a matrix from `first` on, zeros outside.
struct Rows {
  const T* data;
  int64_t row, column, first, count, width;
};
inline Rows rows_of(const T* data, const int64_t* strides, int64_t batch, int64_t head, int64_t count, int64_t width) {
  return {matrix(data, strides, batch, head), strides[2], strides[3], 0, count, width};
}

// A thread's share of `deep` columns of some rows, on its way from memory to shared memory.
template <int height>
struct Slab {
  static constexpr int parts = height / 16;
  const T* from;
  int64_t step, column, left, width;
  T held[parts];
  Slab(const Rows& x)
      : from(x.data + (x.first + threadIdx.x / 16) * x.row + threadIdx.x % 16 * x.column),
        step(16 * x.row),
        column(deep * x.column),
        left(x.count - x.first - threadIdx.x / 16),
        width(x.width - threadIdx.x % 16) {}
  void fetch() {
#pragma unroll
    for (int i = 0; i < parts; ++i) held[i] = 16 * i < left && width > 0 ? from[i * step] : T{};
    from += column;
    width -= deep;
  }
  template <int pitch>
  void put(A (&to)[deep][pitch]) const {
#pragma unroll
    for (int i = 0; i < parts; ++i) to[threadIdx.x % 16][threadIdx.x / 16 + 16 * i] = static_cast<A>(widen(held[i]));
  }
};

// s[a][b] = row (own + a) of x times row (own + b) of y.
inline void products(Buffers& buffers, const Rows& x, const Rows& y, A (&s)[m][n]) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
  for (int a = 0; a < m; ++a)
#pragma unroll
    for (int b = 0; b < n; ++b) s[a][b] = 0;
  Slab<rows> u(x);
  Slab<columns> v(y);
  u.fetch();
  v.fetch();
  for (int64_t c0 = 0; c0 < x.width; c0 += deep) {
    __syncthreads();
    u.put(buffers.x);
    v.put(buffers.y);
    __syncthreads();
    if (c0 + deep < x.width) {
      u.fetch();
      v.fetch();
    }
#pragma unroll 4
    for (int c = 0; c < deep; ++c) {
      const auto f = *reinterpret_cast<const Pack<A, n>*>(&buffers.x[c][ty * m]);
      const auto g = *reinterpret_cast<const Pack<A, n>*>(&buffers.x[c][ty * m + n]);
      const auto h = *reinterpret_cast<const Pack<A, n>*>(&buffers.y[c][tx * n]);
#pragma unroll
      for (int a = 0; a < n; ++a)
#pragma unroll
        for (int b = 0; b < n; ++b) {
          s[a][b] = std::fma(f.v[a], h.v[b], s[a][b]);
          s[n + a][b] = std::fma(g.v[a], h.v[b], s[n + a][b]);
        }
    }
  }
}

// sum[a][.] += over j: weights[j][own row a] times row j of x, columns from c0.
inline void accumulate(Buffers& buffers, const Weights& weights, const Rows& x, int64_t c0, A (&sum)[m][runs * n]) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  constexpr int parts = deep * wide / threads, each = threads / wide;  // rows apart
  const int r = threadIdx.x / wide, c = threadIdx.x % wide;
  const T* from = x.data + (x.first + r) * x.row + (c0 + c) * x.column;
  int64_t left = c0 + c < x.width ? x.count - x.first - r : 0;
  T held[parts];
  const auto fetch = [&] {
#pragma unroll
    for (int i = 0; i < parts; ++i) held[i] = i * each < left ? from[i * each * x.row] : T{};
    from += deep * x.row;
    left -= deep;
  };
  fetch();
  for (int j0 = 0; j0 < columns; j0 += deep) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < parts; ++i) buffers.piece[r + i * each][c] = static_cast<A>(widen(held[i]));
    __syncthreads();
    if (j0 + deep < columns) fetch();
#pragma unroll 4
    for (int j = 0; j < deep; ++j) {
      const auto f = *reinterpret_cast<const Pack<A, n>*>(&weights[j0 + j][ty * m]);
      const auto g = *reinterpret_cast<const Pack<A, n>*>(&weights[j0 + j][ty * m + n]);
#pragma unroll
      for (int i = 0; i < runs; ++i) {
        const auto h = *reinterpret_cast<const Pack<A, n>*>(&buffers.piece[j][i * columns + tx * n]);
#pragma unroll
        for (int a = 0; a < n; ++a)
#pragma unroll
          for (int b = 0; b < n; ++b) {
            sum[a][i * n + b] = std::fma(f.v[a], h.v[b], sum[a][i * n + b]);
            sum[n + a][i * n + b] = std::fma(g.v[a], h.v[b], sum[n + a][i * n + b]);
          }
      }
    }
  }
}

// s[a][b] to weights[own column b][own row a].
inline void put(Weights& weights, const A (&s)[m][n]) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
  for (int b = 0; b < n; ++b)
#pragma unroll
    for (int half = 0; half < m; half += n) {
      Pack<A, n> v;
#pragma unroll
      for (int a = 0; a < n; ++a) v.v[a] = s[half + a][b];
      *reinterpret_cast<Pack<A, n>*>(&weights[tx * n + b][ty * m + half]) = v;
    }
}

inline void clear(A (&sum)[m][runs * n]) {
#pragma unroll
  for (int a = 0; a < m; ++a)
#pragma unroll
    for (int b = 0; b < runs * n; ++b) sum[a][b] = 0;
}
inline void store(const A (&sum)[m][runs * n], T* out, const int64_t* strides, int64_t first, int64_t count, int64_t c0,
                  int64_t width) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
  for (int a = 0; a < m; ++a)
#pragma unroll
    for (int b = 0; b < runs * n; ++b) {
      const int64_t i = first + ty * m + a, c = c0 + b / n * columns + tx * n + b % n;
      if (i < count && c < width) out[i * strides[2] + c * strides[3]] = convert<T>(sum[a][b]);
    }
}

#if FLAME_PASS == 0
extern "C" __global__ void __launch_bounds__(threads)
    forward(const __grid_constant__ Problem p, const T* q, const T* k, const T* v, const Mask* mask, T* out, A* lse) {
  __shared__ alignas(16) Buffers buffers;
  __shared__ alignas(16) Weights weights;
  const Place at(p.heads, p.queries, rows, p.causal);
  const int64_t own = at.head / (p.heads / p.shared), c0 = static_cast<int64_t>(blockIdx.y) * wide;
  const int64_t i0 = at.first + threadIdx.x / 16 * m, row0 = (at.batch * p.heads + at.head) * p.queries;
  Rows queries = rows_of(q, p.q, at.batch, at.head, p.queries, p.width);
  Rows keys = rows_of(k, p.k, at.batch, own, p.keys, p.width), values = rows_of(v, p.v, at.batch, own, p.keys, p.depth);
  queries.first = at.first;
  const Mask* own_mask = with_mask ? matrix(mask, p.mask, at.batch, at.head) : mask;
  A sum[m][runs * n], top[m], total[m];
  clear(sum);
#pragma unroll
  for (int a = 0; a < m; ++a) {
    top[a] = none;
    total[a] = 0;
  }
  const int64_t end = p.causal ? lesser(p.keys, at.first + rows) : p.keys;
  for (int64_t first = 0; first < end; first += columns) {
    const int64_t j0 = first + threadIdx.x % 16 * n;
    keys.first = values.first = first;
    A s[m][n];
    products(buffers, queries, keys, s);
#pragma unroll
    for (int a = 0; a < m; ++a) {
      A most = top[a], part = 0;
#pragma unroll
      for (int b = 0; b < n; ++b) {
        s[a][b] = score(p, own_mask, s[a][b], i0 + a, j0 + b);
        most = most < s[a][b] ? s[a][b] : most;
      }
#pragma unroll
      for (int by = 8; by > 0; by /= 2) {
        const A other = __shfl_xor_sync(~0u, most, by);
        most = most < other ? other : most;
      }
      const A base = most == none ? A(0) : most, factor = exponential(top[a] - base);
      top[a] = most;
      Dropout keep;
#pragma unroll
      for (int b = 0; b < n; ++b) {
        s[a][b] = exponential(s[a][b] - base);
        part += s[a][b];
        if constexpr (with_dropout) s[a][b] *= keep.factor(p, row0 + i0 + a, j0 + b);
      }
#pragma unroll
      for (int by = 8; by > 0; by /= 2) part += __shfl_xor_sync(~0u, part, by);
      total[a] = total[a] * factor + part;
#pragma unroll
      for (int b = 0; b < runs * n; ++b) sum[a][b] *= factor;
    }
    __syncthreads();
    put(weights, s);
    accumulate(buffers, weights, values, c0, sum);
  }
#pragma unroll
  for (int a = 0; a < m; ++a) {
    if (blockIdx.y == 0 && threadIdx.x % 16 == 0 && i0 + a < p.queries)
      lse[row0 + i0 + a] = total[a] == 0 ? -none : top[a] + std::log(total[a]);
    const A by = total[a] == 0 ? A(0) : 1 / total[a];
#pragma unroll
    for (int b = 0; b < runs * n; ++b) sum[a][b] *= by;
  }
  store(sum, matrix(out, p.out, at.batch, at.head), p.out, at.first, p.queries, c0, p.depth);
}
#else

// From a score's product x and that of its gradient, dp: the kept weight into x, the gradient of the product into dp.
inline void weigh(const Problem& p, const Mask* mask, int64_t row0, int64_t i, int64_t j, A lse, A dot, Dropout& keep,
                  A& x, A& dp) {
  const A w = exponential(score(p, mask, x, i, j) - lse);
  x = w;
  if constexpr (with_dropout) {
    const A factor = keep.factor(p, row0 + i, j);
    x *= factor;
    dp *= factor;
  }
  dp = w * (dp - dot) * static_cast<A>(p.scale);
}

#if FLAME_PASS == 1
extern "C" __global__ void __launch_bounds__(threads)
    row_dots(const __grid_constant__ Problem p, const T* out, const T* g, A* dots) {
  row_dot(p, out, g, dots);
}

extern "C" __global__ void __launch_bounds__(threads)
    backward_queries(const __grid_constant__ Problem p, const T* q, const T* k, const T* v, const T* g, const A* lse,
                     const A* dots, const Mask* mask, T* dq) {
  __shared__ alignas(16) Buffers buffers;
  __shared__ alignas(16) Weights weights;
  const Place at(p.heads, p.queries, rows, p.causal);
  const int64_t own = at.head / (p.heads / p.shared), c0 = static_cast<int64_t>(blockIdx.y) * wide;
  const int64_t i0 = at.first + threadIdx.x / 16 * m, row0 = (at.batch * p.heads + at.head) * p.queries;
  Rows queries = rows_of(q, p.q, at.batch, at.head, p.queries, p.width),
       seeds = rows_of(g, p.g, at.batch, at.head, p.queries, p.depth);
  Rows keys = rows_of(k, p.k, at.batch, own, p.keys, p.width), values = rows_of(v, p.v, at.batch, own, p.keys, p.depth);
  queries.first = seeds.first = at.first;
  const Mask* own_mask = with_mask ? matrix(mask, p.mask, at.batch, at.head) : mask;
  A sum[m][runs * n], own_lse[m], dot[m];
  clear(sum);
#pragma unroll
  for (int a = 0; a < m; ++a) {
    own_lse[a] = i0 + a < p.queries ? lse[row0 + i0 + a] : -none;
    dot[a] = i0 + a < p.queries ? dots[row0 + i0 + a] : A(0);
  }
  const int64_t end = p.causal ? lesser(p.keys, at.first + rows) : p.keys;
  for (int64_t first = 0; first < end; first += columns) {
    const int64_t j0 = first + threadIdx.x % 16 * n;
    keys.first = values.first = first;
    A s[m][n], dp[m][n];
    products(buffers, queries, keys, s);
    products(buffers, seeds, values, dp);
#pragma unroll
    for (int a = 0; a < m; ++a) {
      Dropout keep;
#pragma unroll
      for (int b = 0; b < n; ++b) weigh(p, own_mask, row0, i0 + a, j0 + b, own_lse[a], dot[a], keep, s[a][b], dp[a][b]);
    }
    __syncthreads();
    put(weights, dp);
    accumulate(buffers, weights, keys, c0, sum);
  }
  store(sum, matrix(dq, p.dq, at.batch, at.head), p.dq, at.first, p.queries, c0, p.width);
}
#else

extern "C" __global__ void __launch_bounds__(threads)
    backward_keys(const __grid_constant__ Problem p, const T* q, const T* k, const T* v, const T* g, const A* lse,
                  const A* dots, const Mask* mask, T* dk, T* dv) {
  __shared__ alignas(16) Buffers buffers;
  __shared__ alignas(16) Weights weights;
  const Place at(p.shared, p.keys, rows, false);
  const int64_t group = p.heads / p.shared, c0 = static_cast<int64_t>(blockIdx.y) * wide;
  const int64_t j0 = at.first + threadIdx.x / 16 * m;
  Rows keys = rows_of(k, p.k, at.batch, at.head, p.keys, p.width),
       values = rows_of(v, p.v, at.batch, at.head, p.keys, p.depth);
  keys.first = values.first = at.first;
  A to_keys[m][runs * n], to_values[m][runs * n];
  clear(to_keys);
  clear(to_values);
  for (int64_t head = at.head * group; head < (at.head + 1) * group; ++head) {
    const int64_t row0 = (at.batch * p.heads + head) * p.queries;
    Rows queries = rows_of(q, p.q, at.batch, head, p.queries, p.width),
         seeds = rows_of(g, p.g, at.batch, head, p.queries, p.depth);
    const Mask* own_mask = with_mask ? matrix(mask, p.mask, at.batch, head) : mask;
    for (int64_t first = p.causal ? at.first : 0; first < p.queries; first += columns) {
      const int64_t i0 = first + threadIdx.x % 16 * n;
      queries.first = seeds.first = first;
      A s[m][n], dp[m][n];
      products(buffers, keys, queries, s);
      products(buffers, values, seeds, dp);
#pragma unroll
      for (int b = 0; b < n; ++b) {
        const bool inside = i0 + b < p.queries;
        const A own_lse = inside ? lse[row0 + i0 + b] : -none, dot = inside ? dots[row0 + i0 + b] : A(0);
        Dropout keep;
#pragma unroll
        for (int a = 0; a < m; ++a) weigh(p, own_mask, row0, i0 + b, j0 + a, own_lse, dot, keep, s[a][b], dp[a][b]);
      }
      __syncthreads();
      put(weights, s);
      if (c0 < p.depth) accumulate(buffers, weights, seeds, c0, to_values);
      __syncthreads();
      put(weights, dp);
      if (c0 < p.width) accumulate(buffers, weights, queries, c0, to_keys);
    }
  }
  store(to_keys, matrix(dk, p.dk, at.batch, at.head), p.dk, at.first, p.keys, c0, p.width);
  store(to_values, matrix(dv, p.dv, at.batch, at.head), p.dv, at.first, p.keys, c0, p.depth);
}
#endif
#endif

}  // namespace flame
