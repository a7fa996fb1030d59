// Normalisation of rows, forward; the options are told in row_norm.cuh.
#include "flame/ops/row_norm.cuh"

namespace flame {

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
inline void normalize(const Norm& n, const Part& p, const X (&v)[per], const W* w, const W* b, C mean, C scale, T* y) {
  const int64_t first = first_weight(n, p.row);
  p.packs([&](int k, int e) {
    C by[pack], plus[pack];
    weights_of(n, w, first, e, p.span, 1, by);
    weights_of(n, b, first, e, p.span, 0, plus);
    X out;
    for (int j = 0; j < pack; ++j) out.v[j] = convert<T>(std::fma((widen(v[k].v[j]) - mean) * scale, by[j], plus[j]));
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
inline float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
inline double reciprocal(double x) { return 1 / x; }
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
    forward_long(const __grid_constant__ Norm n, const T* x, const W* w, const W* b, T* y, C* means, C* vars,
                 int held) {
  X* cache = reinterpret_cast<X*>(room);
  const int64_t row = blockIdx.x, first_w = first_weight(n, row);
  const int packs = static_cast<int>(n.length / pack), own = threadIdx.x;
  const int steps = packs > own ? (packs - own + threads - 1) / threads : 0;
  const Places place_of(n, row);
  const Quotient of_segment(n.segment);
  const auto at = [&](int i) { return place_of((i * threads + own) * pack); };
  X first[per];
  Running all;
#pragma unroll
  for (int i = 0; i < per; ++i)
    if (i < steps) first[i] = pack_at<X, true>(x + at(i));
#pragma unroll
  for (int i = 0; i < per; ++i)
    if (i < steps) all.add(i, first[i]);
  const int kept = per + held < steps ? per + held : steps;  // on the way, then what the caches may keep
#pragma unroll 4
  for (int i = per; i < kept; ++i) {
    const X v = pack_at<X, true>(x + at(i));
    cache[(i - per) * threads + own] = v;
    all.add(i, v);
  }
#pragma unroll 4
  for (int i = kept; i < steps; ++i) all.add(i, pack_at<X>(x + at(i)));
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
    C by = single.by, plus = single.plus;
    if (n.per_row > 1) {
      const int64_t own_w = first_w + of_segment((i * threads + own) * pack);
      if (w) by = static_cast<C>(widen(w[own_w]));
      if (b) plus = static_cast<C>(widen(b[own_w]));
    }
    by *= scale;
    X out;
    for (int j = 0; j < pack; ++j) out.v[j] = convert<T>(std::fma(widen(v.v[j]) - mean, by, plus));
    store_once(y + at(i), out);
  };
#pragma unroll 4
  for (int i = steps - 1; i >= kept; --i) finish(i, pack_at<X, true>(x + at(i)));
#pragma unroll 4
  for (int i = kept - 1; i >= per; --i) finish(i, cache[(i - per) * threads + own]);
#pragma unroll
  for (int i = 0; i < per; ++i)
    if (i < steps) finish(i, first[i]);
}
#endif

}  // namespace flame
