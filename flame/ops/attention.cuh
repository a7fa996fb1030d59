// What attention's kernels share: the problem, masked scores, dropout, and where a block works. Options: FLAME_T, the dtype;
// FLAME_MASK, the mask's dtype where there is one; FLAME_DROPOUT, 1 with dropout.
#pragma once
#include "flame/core/philox.h"
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using A = computed<T>;
#ifdef FLAME_MASK
constexpr bool with_mask = true;
using Mask = FLAME_MASK;
#else
constexpr bool with_mask = false;
using Mask = bool;
#endif
constexpr bool with_dropout = FLAME_DROPOUT;

// As in attention_cuda.cpp. Strides are of batch, head, row and column.
struct Problem {
  int64_t batch, heads, shared, queries, keys, width, depth;
  int64_t q[4], k[4], v[4], out[4], g[4], dq[4], dk[4], dv[4], mask[4];
  double scale, factor;
  uint64_t seed, call, threshold;
  int64_t causal;
};

constexpr A none = -std::numeric_limits<A>::infinity();
inline float exponential(float x) { return expf(x); }
inline double exponential(double x) { return exp(x); }
inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

// A (batch, head) and the first row of a block's tile among `rows`; the last tiles come first if `backwards`.
struct Place {
  int64_t batch, head, first;
  Place(int64_t heads, int64_t rows, int64_t tile, bool backwards) {
    const int64_t tiles = (rows + tile - 1) / tile, at = blockIdx.x % tiles, unit = blockIdx.x / tiles;
    batch = unit / heads;
    head = unit % heads;
    first = (backwards ? tiles - 1 - at : at) * tile;
  }
};
template <class P>
P* matrix(P* data, const int64_t* strides, int64_t batch, int64_t head) {
  return data + batch * strides[0] + head * strides[1];
}

inline A masked(A x, A scale, bool m) { return m ? x * scale : none; }
template <class M>
A masked(A x, A scale, M m) {
  return std::fma(x, scale, static_cast<A>(widen(m)));
}
// The score of query i and key j from their product; -Inf where j takes no part. `mask` is that of the (batch, head).
inline A score(const Problem& p, const Mask* mask, A x, int64_t i, int64_t j) {
  if (i >= p.queries || j >= p.keys || (p.causal && j > i)) return none;
  const A scale = static_cast<A>(p.scale);
  if constexpr (with_mask) return masked(x, scale, mask[i * p.mask[2] + j * p.mask[3]]);
  else return x * scale;
}

// Factors of dropout: the words of bernoulli over [B, H, L, S]. Neighbours share a block of four.
struct Dropout {
  uint64_t block = ~0ull;
  PhiloxBlock words;
  A factor(const Problem& p, int64_t row, int64_t j) {  // row: of all [B, H, L]
    const uint64_t at = static_cast<uint64_t>(row * p.keys + j);
    if (at / 4 != block) {
      block = at / 4;
      words = philox(p.seed, block, p.call);
    }
    const uint32_t k = at % 4, w = k == 0 ? words[0] : k == 1 ? words[1] : k == 2 ? words[2] : words[3];
    return w < p.threshold ? static_cast<A>(p.factor) : A(0);
  }
};

// dots[row] = out times its gradient: a warp a row.
inline void row_dot(const Problem& p, const T* out, const T* g, A* dots) {
  const int64_t row = global_thread() / 32, lane = threadIdx.x % 32;
  if (row >= p.batch * p.heads * p.queries) return;
  const int64_t i = row % p.queries, head = row / p.queries % p.heads, batch = row / p.queries / p.heads;
  const T* x = matrix(out, p.out, batch, head) + i * p.out[2];
  const T* y = matrix(g, p.g, batch, head) + i * p.g[2];
  A sum = 0;
  for (int64_t c = lane; c < p.depth; c += 32)
    sum = std::fma(static_cast<A>(widen(x[c * p.out[3]])), static_cast<A>(widen(y[c * p.g[3]])), sum);
#pragma unroll
  for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(~0u, sum, by);
  if (lane == 0) dots[row] = sum;
}

}  // namespace flame
