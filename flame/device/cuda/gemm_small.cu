// Small float32 products on tensor cores (TF32), c [m, n] = a [m, k] b [k, n], with what follows them inside: a block
// makes FLAME_TILE x FLAME_TILE numbers. FLAME_A, FLAME_B: 1 if contiguous along k, 0 along the other axis;
// FLAME_A_PACK, FLAME_B_PACK: 4, or 1 where rows do not start at multiples of 16 bytes; FLAME_WARPS, FLAME_DEPTH;
// FLAME_BIAS; FLAME_RELU: 1 for relu, 2 if a bit a number is kept, 3 for relu's slope at such bits; FLAME_SUMS: the
// sums of a's rows too.
#include "flame/fuse/small_product.cuh"

namespace flame {
constexpr int tile = FLAME_TILE, warps = FLAME_WARPS, depth = FLAME_DEPTH;
using A = Side<FLAME_A, FLAME_A_PACK, false, tile / 8>;
using B = Side<FLAME_B, FLAME_B_PACK, false, tile / 8>;
using Product = SmallProduct<A, B, warps, depth>;

struct Small {
  int32_t m, n, k, a_step, b_step;  // steps between what is contiguous
};

extern "C" __global__ void __launch_bounds__(32 * warps, tile == 16 ? 16 / warps : depth == 1 ? 2 : 1)
    gemm_small(const __grid_constant__ Small p, const float* a, const float* b, const float* bias, float* c, uint8_t* kept,
               float* sums) {
  __shared__ __align__(16) Product::Parts parts;
  const int32_t number = static_cast<int32_t>(blockIdx.x), across = (p.n + tile - 1) / tile, m0 = number / across * tile,
                n0 = number % across * tile;
  Product product;
  product.run<FLAME_SUMS>({a, nullptr, p.a_step, p.m}, {b, nullptr, p.b_step, p.n}, m0, n0, p.k);

  const int row = static_cast<int>(threadIdx.x) / (tile / 4), first = static_cast<int>(threadIdx.x) % (tile / 4) * 4;
  float out[4] = {};
  product.join(parts, row, first, out);
  const int32_t at = m0 + row, column = n0 + first;
  const bool inside = row < tile && at < p.m && column < p.n;
  unsigned bits = 0;
#if FLAME_RELU
  // Shared with the next lane.
  uint8_t* const byte = kept + static_cast<int64_t>((p.n + 127) / 128 * 16) * at + column / 8;
#endif
#if FLAME_RELU == 3
  if (inside) bits = *byte >> first % 8;
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
  }
  if (inside) store_row(c + static_cast<int64_t>(at) * p.n, out, column, p.n, p.n % 4 == 0);
#if FLAME_RELU == 2
  bits |= __shfl_down_sync(0xffffffffu, bits, 1) << 4;
  if (inside && threadIdx.x % 2 == 0) *byte = static_cast<uint8_t>(bits);
#endif
#if FLAME_SUMS
  if (n0 == 0) product.join_sums(parts, sums + m0, p.m - m0);  // the whole block
#endif
}

}  // namespace flame
