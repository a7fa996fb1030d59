// Normalisation of rows that lie in one or several pieces. A row of up to 16,384 elements stays in the registers of its
// warp or block; longer ones are cut into chunks, with sums of every chunk first. Each order follows from shapes alone.
// FLAME_T, FLAME_W: dtypes of x and of the weights; FLAME_PACK: elements an access; FLAME_THREADS: of a row or chunk;
// FLAME_PER: packs a thread; FLAME_ROWS: rows a block, each a warp's where it is more than one; FLAME_EACH: a weight an
// element; FLAME_RMS: no mean; FLAME_FORM: 0 whole rows in registers, 1 rows in chunks,
// 2 a long row a block; FLAME_PIECES: rows of several pieces; FLAME_ALIGNED: every tensor
// begins at a multiple of 16 bytes.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using W = FLAME_W;
using C = computed<T>;
constexpr int pack = FLAME_PACK, threads = FLAME_THREADS, per = FLAME_PER, block_rows = FLAME_ROWS;
constexpr bool each = FLAME_EACH, rms = FLAME_RMS, chunked = FLAME_FORM == 1, aligned = FLAME_ALIGNED, pieces = FLAME_PIECES;
constexpr int elements_a_chunk = threads * per * pack;
using X = Pack<T, pack>;

struct Norm {
  int64_t rows, length, period, per_row, segment;
  int64_t row_stride, piece, piece_stride;  // element e of row r: r * row_stride + e / piece * piece_stride + e % piece
  int64_t span, spans, chunks;              // chunked: parts of a row with one weight, chunks of each
  double eps, part;                         // part: 1 / length
};
inline int64_t place(const Norm& n, int64_t row, int e) {
  const int64_t base = row * n.row_stride;
  if constexpr (!pieces) return base + e;
  const uint32_t at = static_cast<uint32_t>(e), size = static_cast<uint32_t>(n.piece);
  return base + at / size * n.piece_stride + at % size;
}
// A pack by one access, or element by element: the order of all sums is the same.
template <class P, class U>
P pack_at(const U* x) {
  if constexpr (aligned && sizeof(P) == 16) return std::bit_cast<P>(__ldg(reinterpret_cast<const uint4*>(x)));
  else if constexpr (aligned) return *reinterpret_cast<const P*>(x);
  P out;
  for (int j = 0; j < pack; ++j) out.v[j] = x[j];
  return out;
}
inline void store(T* to, const X& x) {
  if constexpr (aligned) *reinterpret_cast<X*>(to) = x;
  else
    for (int j = 0; j < pack; ++j) to[j] = x.v[j];
}
inline int64_t first_weight(const Norm& n, int64_t row) {
  if (n.period == 1) return 0;
  return static_cast<uint32_t>(row) % static_cast<uint32_t>(n.period) * n.per_row;
}
// Weights of the pack at element e, from the row's first one; `other` where there are none. `span`: of a chunk.
inline void weights_of(const Norm& n, const W* w, int64_t first, int e, int span, C other, C (&out)[pack]) {
  if (!w) {
    for (int j = 0; j < pack; ++j) out[j] = other;
  } else if constexpr (each) {
    const auto own = pack_at<Pack<W, pack>>(w + first + e);
    for (int j = 0; j < pack; ++j) out[j] = static_cast<C>(widen(own.v[j]));
  } else {
    const int64_t k = chunked ? span : static_cast<uint32_t>(e) / static_cast<uint32_t>(n.segment);
    const C own = static_cast<C>(widen(w[first + k]));
    for (int j = 0; j < pack; ++j) out[j] = own;
  }
}

// Numbers of a row's threads become their sums, in every thread.
template <int n>
void totals(C (&v)[n]) {
#pragma unroll
  for (int by = 16; by > 0; by /= 2)
    for (int k = 0; k < n; ++k) v[k] += __shfl_xor_sync(0xffffffffu, v[k], by);
  if constexpr (threads > 32) {
    __shared__ C all[n][threads / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0)
      for (int k = 0; k < n; ++k) all[k][threadIdx.x / 32] = v[k];
    __syncthreads();
    for (int k = 0; k < n; ++k) {
      v[k] = all[k][0];
      for (int i = 1; i < threads / 32; ++i) v[k] += all[k][i];
    }
  }
}

// The elements of a row, or of a chunk of one, that a thread holds.
struct Part {
  int64_t row;
  int begin, end, span, own;
  int at(int k) const { return begin + (k * threads + own) * pack; }
  template <class F>
  void packs(const F& fn) const {  // fn(k, element) for those inside
#pragma unroll
    for (int k = 0; k < per; ++k)
      if (at(k) < end) fn(k, at(k));
  }
  void load(const Norm& n, const T* x, X (&v)[per]) const {
#pragma unroll
    for (int k = 0; k < per; ++k)
      if (at(k) < end) v[k] = pack_at<X>(x + place(n, row, at(k)));
  }
};
inline Part row_part(const Norm& n, int64_t row) {
  return {row, 0, static_cast<int>(n.length), 0, static_cast<int>(threadIdx.x) % threads};
}
inline Part chunk_part(const Norm& n, int64_t index) {
  const uint32_t all = static_cast<uint32_t>(n.spans * n.chunks), chunks = static_cast<uint32_t>(n.chunks);
  const uint32_t row = static_cast<uint32_t>(index) / all, chunk = static_cast<uint32_t>(index) - row * all;
  const uint32_t span = chunk / chunks;
  const int64_t start = span * n.span, begin = start + (chunk - span * chunks) * static_cast<int64_t>(elements_a_chunk);
  const int64_t end = begin + elements_a_chunk, last = start + n.span;
  return {row, static_cast<int>(begin), static_cast<int>(end < last ? end : last), static_cast<int>(span),
          static_cast<int>(threadIdx.x)};
}

// Mean (0 for RMS) and summed squared distance from it of `count` elements.
inline void moments(const Part& p, const X (&v)[per], int64_t count, C& mean, C& squares) {
  C sum[1] = {0};
  mean = 0;
  if constexpr (!rms) {
    p.packs([&](int k, int) {
      for (int j = 0; j < pack; ++j) sum[0] += widen(v[k].v[j]);
    });
    totals(sum);
    mean = sum[0] / static_cast<C>(count);
  }
  sum[0] = 0;
  p.packs([&](int k, int) {
    for (int j = 0; j < pack; ++j) {
      const C d = widen(v[k].v[j]) - mean;
      sum[0] = std::fma(d, d, sum[0]);
    }
  });
  totals(sum);
  squares = sum[0];
}
inline C scale_of(const Norm& n, C var) { return C(1) / std::sqrt(var + static_cast<C>(n.eps)); }
inline void normalize(const Norm& n, const Part& p, const X (&v)[per], const W* w, const W* b, C mean, C scale, T* y) {
  const int64_t first = first_weight(n, p.row);
  p.packs([&](int k, int e) {
    C by[pack], plus[pack];
    weights_of(n, w, first, e, p.span, 1, by);
    weights_of(n, b, first, e, p.span, 0, plus);
    X out;
    for (int j = 0; j < pack; ++j)
      out.v[j] = convert<T>(std::fma((widen(v[k].v[j]) - mean) * scale, by[j], plus[j]));
    store(y + place(n, p.row, e), out);
  });
}

#if FLAME_FORM == 0
extern "C" __global__ void __launch_bounds__(threads* block_rows)
    forward(const __grid_constant__ Norm n, const T* x, const W* w, const W* b, T* y, C* means, C* vars) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * block_rows + threadIdx.x / threads;
  if (row >= n.rows) return;  // whole warps
  const Part p = row_part(n, row);
  X v[per];
  p.load(n, x, v);
  C mean, squares;
  moments(p, v, n.length, mean, squares);
  const C var = squares / static_cast<C>(n.length);
  if (p.own == 0) {
    means[row] = mean;
    vars[row] = var;
  }
  normalize(n, p, v, w, b, mean, scale_of(n, var), y);
}

#elif FLAME_FORM == 1
// ---- chunked
extern "C" __global__ void __launch_bounds__(threads)
    forward_chunks(const __grid_constant__ Norm n, const T* x, C* sums) {
  const Part p = chunk_part(n, blockIdx.x);
  X v[per];
  p.load(n, x, v);
  C mean, squares;
  moments(p, v, p.end - p.begin, mean, squares);
  if (threadIdx.x == 0) {
    sums[2 * static_cast<int64_t>(blockIdx.x)] = mean;
    sums[2 * static_cast<int64_t>(blockIdx.x) + 1] = squares;
  }
}
// From the last chunk on, which the caches may still hold.
extern "C" __global__ void __launch_bounds__(threads)
    forward_apply(const __grid_constant__ Norm n, const T* x, const W* w, const W* b, const C* sums, T* y, C* means,
                  C* vars) {
  const int64_t index = gridDim.x - 1 - blockIdx.x, all = n.spans * n.chunks;
  const Part p = chunk_part(n, index);
  X v[per];
  p.load(n, x, v);
  const C* own = sums + 2 * p.row * all;
  C sum[1] = {0};
  for (int64_t i = threadIdx.x; i < all; i += threads) {
    const Part c = chunk_part(n, i);
    sum[0] += own[2 * i] * static_cast<C>(c.end - c.begin);
  }
  totals(sum);
  const C mean = sum[0] / static_cast<C>(n.length);
  sum[0] = 0;
  for (int64_t i = threadIdx.x; i < all; i += threads) {
    const Part c = chunk_part(n, i);
    const C d = own[2 * i] - mean;
    sum[0] += own[2 * i + 1] + d * d * static_cast<C>(c.end - c.begin);
  }
  totals(sum);
  const C var = sum[0] / static_cast<C>(n.length);
  if (threadIdx.x == 0 && index % all == 0) {
    means[p.row] = mean;
    vars[p.row] = var;
  }
  normalize(n, p, v, w, b, mean, scale_of(n, var), y);
}

#else
// ---- a long row a block: read once; a thread's first packs stay in registers, the next `held` in shared memory, the
// rest in the caches, from where they come in reverse order.
extern __shared__ uint4 room[];

inline float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
inline double reciprocal(double x) { return 1 / x; }
// A row's weights where it has one alone.
struct Single {
  C by = 1, plus = 0;
  Single(const Norm& n, const W* w, const W* b, int64_t first) {
    if (n.per_row != 1) return;
    if (w) by = static_cast<C>(widen(w[first]));
    if (b) plus = static_cast<C>(widen(b[first]));
  }
};
// Mean and squared distances of one thread's elements, pack by pack (Chan, Golub and LeVeque 1983).
struct Running {
  C mean = 0, squares = 0;
  void add(int packs_before, const X& v) {
    C near = 0, spread = 0;
    if constexpr (!rms) {
      for (int j = 0; j < pack; ++j) near += widen(v.v[j]);
      near /= pack;
    }
    for (int j = 0; j < pack; ++j) {
      const C d = widen(v.v[j]) - near;
      spread = std::fma(d, d, spread);
    }
    const C part = reciprocal(static_cast<C>(packs_before + 1)), step = near - mean;
    mean = std::fma(step, part, mean);
    squares += spread + step * step * (static_cast<C>(pack * packs_before) * part);
  }
};

extern "C" __global__ void __launch_bounds__(threads)
    forward_long(const __grid_constant__ Norm n, const T* x, const W* w, const W* b, T* y, C* means, C* vars, int held) {
  X* cache = reinterpret_cast<X*>(room);
  const int64_t row = blockIdx.x, first_w = first_weight(n, row);
  const int packs = static_cast<int>(n.length / pack), own = threadIdx.x;
  const int steps = packs > own ? (packs - own + threads - 1) / threads : 0;
  const auto at = [&](int i) { return place(n, row, (i * threads + own) * pack); };
  X first[per];
  Running all;
#pragma unroll
  for (int i = 0; i < per; ++i)
    if (i < steps) first[i] = pack_at<X>(x + at(i));
#pragma unroll
  for (int i = 0; i < per; ++i)
    if (i < steps) all.add(i, first[i]);
#pragma unroll 4
  for (int i = per; i < steps; ++i) {
    const X v = pack_at<X>(x + at(i));
    if (i - per < held) cache[(i - per) * threads + own] = v;
    all.add(i, v);
  }
  const C count = static_cast<C>(steps) * pack;
  C sum[1] = {all.mean * count};
  totals(sum);
  const C mean = rms ? C(0) : sum[0] / static_cast<C>(n.length), off = all.mean - mean;
  sum[0] = all.squares + (rms ? C(0) : off * off * count);
  totals(sum);
  const C var = sum[0] / static_cast<C>(n.length), scale = scale_of(n, var);
  if (own == 0) {
    means[row] = mean;
    vars[row] = var;
  }
  const Single single(n, w, b, first_w);
  const auto finish = [&](int i, const X& v) {
    C by[pack], plus[pack];
    for (int j = 0; j < pack; ++j) {
      by[j] = single.by;
      plus[j] = single.plus;
    }
    if (n.per_row > 1) {
      weights_of(n, w, first_w, (i * threads + own) * pack, 0, 1, by);
      weights_of(n, b, first_w, (i * threads + own) * pack, 0, 0, plus);
    }
    X out;
    for (int j = 0; j < pack; ++j) out.v[j] = convert<T>(std::fma((widen(v.v[j]) - mean) * scale, by[j], plus[j]));
    store(y + at(i), out);
  };
#pragma unroll 4
  for (int i = steps - 1; i >= per; --i) {
    X v;
    if (i - per < held) v = cache[(i - per) * threads + own];
    else v = pack_at<X>(x + at(i));
    finish(i, v);
  }
#pragma unroll
  for (int i = 0; i < per; ++i)
    if (i < steps) finish(i, first[i]);
}
#endif

// ---- backward: with u the normalised x, dx = (w g - mean(w g) - u mean(w g u)) scale.
struct Row {
  C mean, scale;
  int64_t first;
};
inline Row row_of(const Norm& n, int64_t row, C mean, C var) {
  return {rms ? C(0) : mean, scale_of(n, var), first_weight(n, row)};
}
inline Row row_of(const Norm& n, int64_t row, const C* means, const C* vars) {
  return row_of(n, row, means[row], vars[row]);
}
inline void store_dx(const Norm& n, const Part& p, const Row& r, const X (&x)[per], const X (&g)[per], const W* w,
                     const C (&sum)[2], T* dx) {
  const C part = static_cast<C>(n.part), plain = rms ? C(0) : sum[0] * part, along = sum[1] * part;
  const C by_x = -along * r.scale * r.scale;
  p.packs([&](int k, int e) {
    C by[pack];
    weights_of(n, w, r.first, e, p.span, 1, by);
    X out;
    for (int j = 0; j < pack; ++j) {
      const C own = (widen(g[k].v[j]) * by[j] - plain) * r.scale;  // 0 for a single element
      out.v[j] = convert<T>(std::fma(widen(x[k].v[j]) - r.mean, by_x, own));
    }
    store(dx + place(n, p.row, e), out);
  });
}
// Sums of g and g u over a pack.
inline void pack_sums(const Row& r, const X& x, const X& g, C& plain, C& along) {
  plain = along = 0;
  for (int j = 0; j < pack; ++j) {
    const C own = widen(g.v[j]);
    plain += own;
    along = std::fma(own, (widen(x.v[j]) - r.mean) * r.scale, along);
  }
}

#if FLAME_FORM == 0 && FLAME_EACH
// A weight an element, or none: rows in turn; every thread keeps the sums of its columns. sums: [2][length] a row of threads.
extern "C" __global__ void __launch_bounds__(threads* block_rows)
    backward_each(const __grid_constant__ Norm n, const T* x, const C* means, const C* vars, const T* g, const W* w,
                  T* dx, C* sums) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * block_rows;
  const int64_t own = static_cast<int64_t>(blockIdx.x) * block_rows + threadIdx.x / threads;
  C dw[per][pack] = {}, db[per][pack] = {};
  X nx[per], ng[per];  // of the next row, as are its mean and variance
  C next_mean = 0, next_var = 0;
  const auto fetch = [&](int64_t row) {
    if (row >= n.rows) return;
    row_part(n, row).load(n, x, nx);
    row_part(n, row).load(n, g, ng);
    next_mean = means[row];
    next_var = vars[row];
  };
  fetch(own);
  for (int64_t row = own; row < n.rows; row += step) {
    const Part p = row_part(n, row);
    X vx[per], vg[per];
#pragma unroll
    for (int k = 0; k < per; ++k) {
      vx[k] = nx[k];
      vg[k] = ng[k];
    }
    const Row r = row_of(n, row, next_mean, next_var);
    fetch(row + step);  // while this row is worked on
    C sum[2] = {0, 0};
    p.packs([&](int k, int e) {
      C by[pack];
      weights_of(n, w, r.first, e, 0, 1, by);
      for (int j = 0; j < pack; ++j) {
        const C own_g = widen(vg[k].v[j]), u = (widen(vx[k].v[j]) - r.mean) * r.scale, scaled = own_g * by[j];
        dw[k][j] = std::fma(own_g, u, dw[k][j]);
        if constexpr (!rms) db[k][j] += own_g;
        sum[0] += scaled;
        sum[1] = std::fma(scaled, u, sum[1]);
      }
    });
    totals(sum);
    store_dx(n, p, r, vx, vg, w, sum, dx);
  }
  if (n.per_row == 0) return;
  row_part(n, own).packs([&](int k, int e) {
    for (int j = 0; j < pack; ++j) {
      sums[2 * own * n.length + e + j] = dw[k][j];
      sums[(2 * own + 1) * n.length + e + j] = db[k][j];
    }
  });
}
// Columns of those sums: a warp's width of columns a block, eight lines at a time.
extern "C" __global__ void __launch_bounds__(256)
    join_columns(const C* sums, int64_t lines, int64_t length, W* dw, W* db) {
  __shared__ C part[8][33];
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + lane;  // of dw, then db
  C sum = 0;
  if (column < 2 * length)
#pragma unroll 8
    for (int64_t i = line; i < lines; i += 8) sum += sums[i * 2 * length + column];
  part[line][lane] = sum;
  __syncthreads();
  if (line > 0 || column >= 2 * length) return;
  for (int k = 1; k < 8; ++k) sum += part[k][lane];
  if (column < length) dw[column] = convert<W>(sum);
  else db[column - length] = convert<W>(sum);
}

#elif FLAME_FORM == 0
// A weight a segment: sums of g and g u of every segment, [rows][per_row][2].
extern "C" __global__ void __launch_bounds__(threads* block_rows)
    backward(const __grid_constant__ Norm n, const T* x, const C* means, const C* vars, const T* g, const W* w, T* dx,
             C* sums) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * block_rows + threadIdx.x / threads;
  __shared__ C parts[block_rows][2][per * threads];
  if (row >= n.rows) return;  // whole warps
  const Part p = row_part(n, row);
  C(*mine)[per * threads] = parts[threadIdx.x / threads];
  X vx[per], vg[per];
  p.load(n, x, vx);
  p.load(n, g, vg);
  const Row r = row_of(n, row, means, vars);
  C sum[2] = {0, 0};
  p.packs([&](int k, int e) {
    C by[pack], plain, along;
    weights_of(n, w, r.first, e, 0, 1, by);
    pack_sums(r, vx[k], vg[k], plain, along);
    mine[0][k * threads + p.own] = plain;
    mine[1][k * threads + p.own] = along;
    sum[0] += by[0] * plain;
    sum[1] += by[0] * along;
  });
  totals(sum);  // and everything is in `parts`
  if constexpr (threads == 32) __syncwarp();
  store_dx(n, p, r, vx, vg, w, sum, dx);
  const int lane = p.own % 32;
  const int64_t packs = n.segment / pack;
  for (int64_t s = p.own / 32; s < n.per_row; s += threads / 32) {
    C a = 0, b = 0;
    for (int64_t i = lane; i < packs; i += 32) {
      a += mine[0][s * packs + i];
      b += mine[1][s * packs + i];
    }
    for (int by = 16; by > 0; by /= 2) {
      a += __shfl_xor_sync(0xffffffffu, a, by);
      b += __shfl_xor_sync(0xffffffffu, b, by);
    }
    if (lane == 0) {
      sums[2 * (row * n.per_row + s)] = a;
      sums[2 * (row * n.per_row + s) + 1] = b;
    }
  }
}

#elif FLAME_FORM == 1
extern "C" __global__ void __launch_bounds__(threads)
    backward_chunks(const __grid_constant__ Norm n, const T* x, const C* means, const C* vars, const T* g, C* sums,
                    int64_t first) {
  const int64_t index = first + blockIdx.x;
  const Part p = chunk_part(n, index);
  X vx[per], vg[per];
  p.load(n, x, vx);
  p.load(n, g, vg);
  const Row r = row_of(n, p.row, means, vars);
  C sum[2] = {0, 0};
  p.packs([&](int k, int) {
    C plain, along;
    pack_sums(r, vx[k], vg[k], plain, along);
    sum[0] += plain;
    sum[1] += along;
  });
  totals(sum);
  if (threadIdx.x == 0) {
    sums[2 * index] = sum[0];
    sums[2 * index + 1] = sum[1];
  }
}
extern "C" __global__ void __launch_bounds__(threads)
    backward_apply(const __grid_constant__ Norm n, const T* x, const C* means, const C* vars, const T* g, const W* w,
                   const C* sums, T* dx, int64_t first) {
  const int64_t all = n.spans * n.chunks;
  const Part p = chunk_part(n, first + gridDim.x - 1 - blockIdx.x);
  X vx[per], vg[per];
  p.load(n, x, vx);
  p.load(n, g, vg);
  const Row r = row_of(n, p.row, means, vars);
  const C* own = sums + 2 * p.row * all;
  C sum[2] = {0, 0};
  for (int64_t i = threadIdx.x; i < all; i += threads) {
    const C by = w ? static_cast<C>(widen(w[r.first + i / n.chunks])) : C(1);
    sum[0] += by * own[2 * i];
    sum[1] += by * own[2 * i + 1];
  }
  totals(sum);
  store_dx(n, p, r, vx, vg, w, sum, dx);
}
#endif

// A warp a weight: the sums of its segments in all rows, `chunks` each.
extern "C" __global__ void __launch_bounds__(256)
    join_segments(const __grid_constant__ Norm n, const C* sums, int64_t chunks, W* dw, W* db) {
  const int64_t weight = global_thread() / 32;
  const int lane = threadIdx.x % 32;
  if (weight >= n.period * n.per_row) return;
  const int64_t first = weight / n.per_row, k = weight % n.per_row, terms = n.rows / n.period * chunks;
  C a = 0, b = 0;
  for (int64_t i = lane; i < terms; i += 32) {
    const int64_t row = first + i / chunks * n.period, at = (row * n.per_row + k) * chunks + i % chunks;
    a += sums[2 * at];
    b += sums[2 * at + 1];
  }
  for (int by = 16; by > 0; by /= 2) {
    a += __shfl_xor_sync(0xffffffffu, a, by);
    b += __shfl_xor_sync(0xffffffffu, b, by);
  }
  if (lane > 0) return;
  dw[weight] = convert<W>(b);
  db[weight] = convert<W>(a);
}

}  // namespace flame
