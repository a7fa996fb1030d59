// The gradients of a small float32 linear layer, y = x w^T + bias and perhaps relu of it, in one launch on tensor
// cores (TF32): the first blocks make tiles of dx = g w, the others of dw = g^T x and, on the way, the sums of g's
// columns. g counts where y is not 0 or less, if FLAME_RELU. FLAME_X: blocks of dx, FLAME_BIAS: the sums, FLAME_OUT,
// FLAME_IN: 4, or 1 where rows of g or of w and x do not start at multiples of 16 bytes; FLAME_TILE, FLAME_WARPS,
// FLAME_DEPTH.
#include "flame/fuse/small_product.cuh"

namespace flame {
constexpr int tile = FLAME_TILE, places = tile / 8, warps = FLAME_WARPS, depth = FLAME_DEPTH;
using Rows = Side<true, FLAME_OUT, FLAME_RELU, places>;
using Turned = Side<false, FLAME_OUT, FLAME_RELU, places>;
using Across = Side<false, FLAME_IN, false, places>;

struct Layer {
  int32_t rows, in, out, first;  // blocks of dx
};

template <class A>
using Product = SmallProduct<A, Across, warps, depth>;
using Parts = Product<Rows>::Parts;

template <bool sums, class A>
void make(Parts& parts, const A& a, const Across& b, int32_t number, int32_t k, float* to, float* to_sums) {
  const int32_t across = (b.extent + tile - 1) / tile, m0 = number / across * tile, n0 = number % across * tile;
  Product<A> product;
  product.template run<sums>(a, b, m0, n0, k);
  const int row = static_cast<int>(threadIdx.x) / (tile / 4), first = static_cast<int>(threadIdx.x) % (tile / 4) * 4;
  float out[4] = {};
  product.join(parts, row, first, out);
  const int32_t at = m0 + row, column = n0 + first;
  if (row < tile && at < a.extent && column < b.extent)
    store_row(to + at * b.extent, out, column, b.extent, FLAME_IN == 4);
  if constexpr (sums)
    if (n0 == 0) product.join_sums(parts, to_sums + m0, a.extent - m0);  // the whole block
}

extern "C" __global__ void __launch_bounds__(32 * warps, tile == 16 ? 16 / warps : depth == 1 ? 2 : 1)
    linear_backward(const __grid_constant__ Layer l, const float* g, const float* x, const float* w, const float* y, float* dw,
                    float* db, float* dx) {
  __shared__ __align__(16) Parts parts;
  const int32_t number = static_cast<int32_t>(blockIdx.x);
  if (FLAME_X && number < l.first)
    make<false>(parts, Rows{g, y, l.out, l.rows}, Across{w, nullptr, l.in, l.in}, number, l.out, dx, nullptr);
  else make<FLAME_BIAS>(parts, Turned{g, y, l.out, l.out}, Across{x, nullptr, l.in, l.in}, number - l.first, l.rows, dw, db);
}

}  // namespace flame
