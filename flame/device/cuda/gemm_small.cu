// Small float32 products on tensor cores (TF32), c [m, n] = a [m, k] b [k, n], with what follows them inside: a block makes 32 x 32
// numbers, its eight warps take turns along k in chunks of 16 and their sums are added in order. Operands go from memory to
// registers: within a chunk k is dealt out to the lanes, and along the other axis rows to tiles, so that each lane reads 16 bytes at a
// time whichever axis is contiguous. FLAME_A, FLAME_B: 1 if contiguous along k, 0 along the other axis; FLAME_A_PACK, FLAME_B_PACK:
// 4, or 1 where rows do not start at multiples of 16 bytes; FLAME_BIAS; FLAME_RELU: 1 for relu, 2 if a bit a number is kept, 3 for
// relu's slope at such bits; FLAME_SUMS: the sums of a's rows too.
#include "flame/fuse/tensor_cores.cuh"

namespace flame {
constexpr int warps = 8, chunk = 16, tile = 32, pitch = tile + 4;

struct Small {
  int64_t m, n, k, a_step, b_step;  // steps between what is contiguous
};
// 4 x 4 numbers of an operand: [q][e] is the lane's e-th k of a chunk and its q-th place of the tile.
struct Square {
  float of[4][4];
};

template <bool along_k>
inline int place_of(int q, int group) {
  return along_k ? 8 * q + group : 4 * group + q;
}
template <bool along_k, int pack>
void read(Square& s, const float* x, int64_t step, int64_t first, int64_t extent, int64_t k0, int64_t k, int group, int quad) {
  const int64_t at = k0 + 4 * quad;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Along k: i is a place; else it is one of the lane's four k.
    const int64_t row = along_k ? first + place_of<true>(i, group) : at + i, rows = along_k ? extent : k;
    const int64_t begin = along_k ? at : first + 4 * group, end = along_k ? k : extent;
    float4 v = make_float4(0, 0, 0, 0);
    if (row < rows) {
      const float* from = x + row * step + begin;
      if constexpr (pack == 4) {
        if (begin < end) v = __ldg(reinterpret_cast<const float4*>(from));
      } else {
        if (begin < end) v.x = from[0];
        if (begin + 1 < end) v.y = from[1];
        if (begin + 2 < end) v.z = from[2];
        if (begin + 3 < end) v.w = from[3];
      }
    }
    const float all[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) (along_k ? s.of[i][j] : s.of[j][i]) = all[j];
  }
}

struct Sums {
  float c[2][4][4];  // [16 rows][8 columns][as the product leaves them]
  float a[4];        // of a's rows
};
inline void multiply(Sums& to, const Square& a, const Square& b) {
#if FLAME_SUMS
#pragma unroll
  for (int q = 0; q < 4; ++q) to.a[q] += (a.of[q][0] + a.of[q][1]) + (a.of[q][2] + a.of[q][3]);
#endif
  uint32_t x[4][4], y[4][4];
#pragma unroll
  for (int q = 0; q < 4; ++q)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      x[q][e] = tensor_float(a.of[q][e]);
      y[q][e] = tensor_float(b.of[q][e]);
    }
#pragma unroll
  for (int e = 0; e < 4; e += 2)
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        multiply_tf32(to.c[i][j], x[2 * i][e], x[2 * i + 1][e], x[2 * i][e + 1], x[2 * i + 1][e + 1], y[j][e], y[j][e + 1]);
}

extern "C" __global__ void __launch_bounds__(32 * warps)
    gemm_small(const __grid_constant__ Small p, const float* a, const float* b, const float* bias, float* c, uint8_t* kept,
               float* sums) {
  __shared__ __align__(16) float parts[warps][tile][pitch];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, group = lane / 4, quad = lane % 4;
  const int64_t across = (p.n + tile - 1) / tile, m0 = blockIdx.x / across * tile, n0 = blockIdx.x % across * tile;
  const int64_t chunks = (p.k + chunk - 1) / chunk;

  Sums sum = {};
  Square from_a[2], from_b[2];  // of this turn and the next
  const auto fetch = [&](int which, int64_t number) {
    read<FLAME_A, FLAME_A_PACK>(from_a[which], a, p.a_step, m0, p.m, number * chunk, p.k, group, quad);
    read<FLAME_B, FLAME_B_PACK>(from_b[which], b, p.b_step, n0, p.n, number * chunk, p.k, group, quad);
  };
  fetch(0, warp);
  fetch(1, warp + warps);
  for (int64_t number = warp; number < chunks; number += 2 * warps) {  // beyond the last chunk are zeros
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      multiply(sum, from_a[which], from_b[which]);
      fetch(which, number + (2 + which) * warps);
    }
  }

#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int r = 0; r < 4; ++r)
        parts[warp][place_of<FLAME_A>(2 * i + r / 2, group)][place_of<FLAME_B>(j, 2 * quad + r % 2)] = sum.c[i][j][r];
  __syncthreads();
  const int row = static_cast<int>(threadIdx.x) / 8, first = static_cast<int>(threadIdx.x) % 8 * 4;
  float out[4] = {};
#pragma unroll
  for (int w = 0; w < warps; ++w) {
    const float4 v = *reinterpret_cast<const float4*>(&parts[w][row][first]);
    out[0] += v.x;
    out[1] += v.y;
    out[2] += v.z;
    out[3] += v.w;
  }
  const int64_t at = m0 + row, column = n0 + first;
  const bool inside = at < p.m;
  unsigned bits = 0;
#if FLAME_RELU
  uint8_t* const byte = kept + (p.n + 127) / 128 * 16 * at + (n0 + first) / 8;  // shared with the next lane
#endif
#if FLAME_RELU == 3
  if (inside && column < p.n) bits = *byte >> first % 8;
#endif
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#if FLAME_BIAS
    if (column + i < p.n) out[i] += bias[column + i];
#endif
#if FLAME_RELU == 3
    if (!(bits >> i & 1)) out[i] = 0;
#elif FLAME_RELU
    if (out[i] > 0 && column + i < p.n) bits |= 1u << i;
    else out[i] = 0;
#endif
    if (inside && column + i < p.n) c[at * p.n + column + i] = out[i];
  }
#if FLAME_RELU == 2
  bits |= __shfl_down_sync(0xffffffffu, bits, 1) << 4;
  if (inside && threadIdx.x % 2 == 0 && column < p.n) *byte = static_cast<uint8_t>(bits);
#endif
#if FLAME_SUMS
  if (n0 > 0) return;  // the whole block
  __syncthreads();
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    float s = sum.a[q];
    s += __shfl_xor_sync(0xffffffffu, s, 1);
    s += __shfl_xor_sync(0xffffffffu, s, 2);
    if (quad == 0) parts[warp][0][place_of<FLAME_A>(q, group)] = s;
  }
  __syncthreads();
  if (threadIdx.x >= tile || m0 + threadIdx.x >= p.m) return;
  float s = 0;
  for (int w = 0; w < warps; ++w) s += parts[w][0][threadIdx.x];
  sums[m0 + threadIdx.x] = s;
#endif
}

}  // namespace flame
