// The gradients of normalised rows and of their weights; the options are told in row_norm.cuh.
#include "flame/ops/row_norm.cuh"

namespace flame {

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
// The gradient of an element: rounded, then added to what has arrived.
inline T joined(const T& arrived, C own) {
  const T dx = convert<T>(own);
  return plus ? convert<T>(static_cast<C>(widen(arrived)) + static_cast<C>(widen(dx))) : dx;
}
inline void store_dx(const Norm& n, const Part& p, const Row& r, const X (&x)[per], const XG (&g)[per],
                     const W* w, const C (&sum)[2], const T* arrived, T* dx) {
  const C part = static_cast<C>(n.part), plain = rms ? C(0) : sum[0] * part, along = sum[1] * part;
  const C by_x = -along * r.scale * r.scale;
  p.packs([&](int k, int e) {
    C by[pack];
    weights_of(n, w, r.first, e, p.span, 1, by);
    X out, before;
    if constexpr (plus) before = pack_at<X, true>(arrived + place(n, p.row, e));
    for (int j = 0; j < pack; ++j) {
      const C own = (static_cast<C>(widen(g[k].v[j])) * by[j] - plain) * r.scale;  // 0 for a single element
      out.v[j] = joined(before.v[j], std::fma(widen(x[k].v[j]) - r.mean, by_x, own));
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
// A weight an element, or none: rows in turn; every thread keeps the sums of its columns, then those of a block are added in
// the order of its rows. sums: [2][length] a block.
extern "C" __global__ void __launch_bounds__(threads* block_rows, threads* block_rows > 256 || sizeof(C) > 4 ? 1 : 2)
    backward_each(const __grid_constant__ Norm n, const T* x, const C* means, const C* vars, const G* g, const W* w,
                  const T* arrived, T* dx, C* sums) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * block_rows;
  const int group = threadIdx.x / threads;
  const int64_t own = static_cast<int64_t>(blockIdx.x) * block_rows + group;
  C dw[per][pack] = {}, db[per][pack] = {};
  X nx[per];  // of the next row, as are the gradient, its mean and variance
  XG ng[per];
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
    X vx[per];
    XG vg[per];
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
        const C own_g = static_cast<C>(widen(vg[k].v[j])), u = (widen(vx[k].v[j]) - r.mean) * r.scale, scaled = own_g * by[j];
        dw[k][j] = std::fma(own_g, u, dw[k][j]);
        if constexpr (!rms) db[k][j] += own_g;
        sum[0] += scaled;
        sum[1] = std::fma(scaled, u, sum[1]);
      }
    });
    totals(sum);
    store_dx(n, p, r, vx, vg, w, sum, arrived, dx);
  }
  if (n.per_row == 0) return;
  __shared__ C before[block_rows > 1 ? 2 * elements_a_chunk : 1];
#pragma unroll 1
  for (int turn = 0; turn < block_rows; ++turn) {
    const bool last = turn == block_rows - 1;
    C* to = last ? sums + 2 * blockIdx.x * n.length : before;
    if (turn == group)
      row_part(n, own).packs([&](int k, int e) {
        for (int j = 0; j < pack; ++j) {
          to[e + j] = turn > 0 ? before[e + j] + dw[k][j] : dw[k][j];
          to[n.length + e + j] = turn > 0 ? before[n.length + e + j] + db[k][j] : db[k][j];
        }
      });
    if (!last) __syncthreads();
  }
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
    backward(const __grid_constant__ Norm n, const T* x, const C* means, const C* vars, const T* g, const W* w,
             const T* arrived, T* dx, C* sums) {
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
  store_dx(n, p, r, vx, vg, w, sum, arrived, dx);
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
    backward_chunks(const __grid_constant__ Norm n, const T* x, const C* means, const C* vars, const T* g, C* sums) {
  const Part p = chunk_part(n, blockIdx.x);
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
    sums[2 * static_cast<int64_t>(blockIdx.x)] = sum[0];
    sums[2 * static_cast<int64_t>(blockIdx.x) + 1] = sum[1];
  }
}
extern "C" __global__ void __launch_bounds__(threads)
    backward_apply(const __grid_constant__ Norm n, const T* x, const C* means, const C* vars, const T* g, const W* w,
                   const C* sums, const T* arrived, T* dx) {
  const int64_t all = n.spans * n.chunks;
  const Part p = chunk_part(n, gridDim.x - 1 - blockIdx.x);
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
  store_dx(n, p, r, vx, vg, w, sum, arrived, dx);
}
#else
// As forward_long; sums of segments as `backward`, where a warp's packs of a step lie in one segment.
extern "C" __global__ void __launch_bounds__(threads)
    backward_long(const __grid_constant__ Norm n, const T* x, const C* means, const C* vars, const T* g, const W* w,
                  const T* arrived, T* dx, C* sums, int held) {
  X *cached_x = reinterpret_cast<X*>(room), *cached_g = cached_x + held * threads;
  C* parts = reinterpret_cast<C*>(cached_g + held * threads);  // [2][segments][warps]
  const int64_t row = blockIdx.x;
  const int packs = static_cast<int>(n.length / pack), own = threadIdx.x, lane = own % 32, segments = n.per_row;
  const int steps = packs > own ? (packs - own + threads - 1) / threads : 0, turns = (packs + threads - 1) / threads;
  constexpr int warps = threads / 32;
  const Places place_of(n, row);
  const Quotient of_segment(n.segment);
  const auto at = [&](int i) { return place_of((i * threads + own) * pack); };
  X first_x[per], first_g[per];
#pragma unroll
  for (int i = 0; i < per; ++i)
    if (i < steps) {
      first_x[i] = pack_at<X, true>(x + at(i));
      first_g[i] = pack_at<X, true>(g + at(i));
    }
  for (int i = own; i < 2 * segments * warps; i += threads) parts[i] = 0;
  __syncthreads();
  const Row r = row_of(n, row, means, vars);
  C sum[2] = {0, 0}, plain = 0, along = 0;
  int segment = 0;
  const auto leave = [&] {  // the segment that this warp was in
    along *= r.scale;
    for (int by = 16; by > 0; by /= 2) {
      plain += __shfl_xor_sync(0xffffffffu, plain, by);
      along += __shfl_xor_sync(0xffffffffu, along, by);
    }
    const C by = w ? static_cast<C>(widen(w[r.first + segment])) : C(1);
    if (lane == 0) {
      if (segments > 0) {
        parts[segment * warps + own / 32] = plain;
        parts[(segments + segment) * warps + own / 32] = along;
      }
      sum[0] = std::fma(by, plain, sum[0]);
      sum[1] = std::fma(by, along, sum[1]);
    }
    plain = along = 0;
  };
  const auto enter = [&](int i) {  // the segment of step i, for the whole warp
    const int of_warp = (i * threads + own - lane) * pack;
    if (segments <= 1 || of_warp >= n.length) return;
    const int now = of_segment(of_warp);
    if (now != segment) leave();
    segment = now;
  };
  const auto add = [&](const X& vx, const X& vg) {
    C a = 0, b = 0;
    for (int j = 0; j < pack; ++j) {
      const C own_g = widen(vg.v[j]);
      a += own_g;
      b = std::fma(own_g, widen(vx.v[j]) - r.mean, b);
    }
    plain += a;
    along += b;
  };
#pragma unroll
  for (int i = 0; i < per; ++i) {
    enter(i);
    if (i < steps) add(first_x[i], first_g[i]);
  }
  const int kept = per + held < turns ? per + held : turns;
#pragma unroll 2
  for (int i = per; i < kept; ++i) {
    enter(i);
    if (i >= steps) continue;
    const X vx = pack_at<X, true>(x + at(i)), vg = pack_at<X, true>(g + at(i));
    cached_x[(i - per) * threads + own] = vx;
    cached_g[(i - per) * threads + own] = vg;
    add(vx, vg);
  }
#pragma unroll 2
  for (int i = kept; i < turns; ++i) {
    enter(i);
    if (i < steps) add(pack_at<X>(x + at(i)), pack_at<X>(g + at(i)));
  }
  leave();
  totals(sum);
  const C part = static_cast<C>(n.part), by_x = -(sum[1] * part) * r.scale * r.scale;
  const C middle = rms ? C(0) : sum[0] * part * r.scale;
  const Single single(n, w, nullptr, r.first);
  const auto finish = [&](int i, const X& vx, const X& vg) {
    C by = single.by;
    if (segments > 1 && w) by = static_cast<C>(widen(w[r.first + of_segment((i * threads + own) * pack)]));
    by *= r.scale;
    X out, va;
    if constexpr (plus) va = pack_at<X, true>(arrived + at(i));
    for (int j = 0; j < pack; ++j) {
      const C own = std::fma(widen(vx.v[j]) - r.mean, by_x, std::fma(widen(vg.v[j]), by, -middle));
      out.v[j] = joined(va.v[j], own);
    }
    store_once(dx + at(i), out);
  };
#pragma unroll 2
  for (int i = steps - 1; i >= kept; --i) finish(i, pack_at<X, true>(x + at(i)), pack_at<X, true>(g + at(i)));
#pragma unroll 2
  for (int i = (kept < steps ? kept : steps) - 1; i >= per; --i)
    finish(i, cached_x[(i - per) * threads + own], cached_g[(i - per) * threads + own]);
#pragma unroll
  for (int i = 0; i < per; ++i)
    if (i < steps) finish(i, first_x[i], first_g[i]);
  for (int k = own; k < 2 * segments; k += threads) {  // `totals` has let every warp's parts arrive
    C total = 0;
    for (int i = 0; i < warps; ++i) total += parts[k * warps + i];
    sums[2 * (row * segments + k % segments) + k / segments] = total;
  }
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
