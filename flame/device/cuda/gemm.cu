// c[batch, i, j] = sum over p of a[batch, i, p] * b[batch, p, j] (+ bias[j]) for any strides: a block makes 32 x 32 numbers from
// tiles in shared memory, each thread four of them. FLAME_T: the dtype; 16-bit ones are summed in float32 and rounded
// once, to FLAME_OUT. `added` lies as c and may be c.
#include "flame/fuse/device.cuh"
#include "flame/fuse/scalar_math.h"

namespace flame {
using T = FLAME_T;
using Out = FLAME_OUT;
using namespace kernels;
using C = computed<T>;

struct Problem {
  int64_t m, n, k;
  int64_t a_rs, a_cs, b_rs, b_cs, c_rs, c_cs;
  int64_t axes;
  int64_t batch[6], a[6], b[6], c[6];
};

extern "C" __global__ void __launch_bounds__(256)
    gemm(const __grid_constant__ Problem p, int64_t first, const T* a, const T* b, const T* bias, const Out* added, Out* c) {
  __shared__ C as[32][33], bs[32][33];
  int64_t product = first + blockIdx.y;
  for (int64_t i = p.axes - 1; i >= 0; --i) {
    const int64_t at = product % p.batch[i];
    product /= p.batch[i];
    a += at * p.a[i];
    b += at * p.b[i];
    c += at * p.c[i];
    if (added) added += at * p.c[i];
  }
  const int64_t across = (p.n + 31) / 32, row0 = blockIdx.x / across * 32, col0 = blockIdx.x % across * 32;
  const int x = threadIdx.x % 32, y = threadIdx.x / 32;
  C sum[4] = {};
  for (int64_t k0 = 0; k0 < p.k; k0 += 32) {
    for (int r = y; r < 32; r += 8) {
      const int64_t i = row0 + r, q = k0 + x;
      as[r][x] = i < p.m && q < p.k ? widen(a[i * p.a_rs + q * p.a_cs]) : C(0);
      const int64_t s = k0 + r, j = col0 + x;
      bs[r][x] = s < p.k && j < p.n ? widen(b[s * p.b_rs + j * p.b_cs]) : C(0);
    }
    __syncthreads();
    const int end = p.k - k0 < 32 ? static_cast<int>(p.k - k0) : 32;
    for (int q = 0; q < end; ++q)
#pragma unroll
      for (int r = 0; r < 4; ++r) sum[r] = fused(as[y + 8 * r][q], bs[q][x], sum[r]);
    __syncthreads();
  }
  const int64_t j = col0 + x;
  if (j >= p.n) return;
  for (int r = 0; r < 4; ++r) {
    const int64_t i = row0 + y + 8 * r;
    if (i >= p.m) continue;
    const int64_t at = i * p.c_rs + j * p.c_cs;
    const C own = bias ? plus(sum[r], C(widen(bias[j]))) : sum[r];
    c[at] = convert<Out>(added ? plus(C(widen(added[at])), own) : own);
  }
}

// Where each product of a batch starts: all of a, then all of b, then all of c.
extern "C" __global__ void batch_pointers(const __grid_constant__ Problem p, int64_t count, const T* a, const T* b, T* c,
                                          const void** out) {
  const int64_t i = global_thread();
  if (i >= count) return;
  int64_t rest = i;
  for (int64_t axis = p.axes - 1; axis >= 0; --axis) {
    const int64_t at = rest % p.batch[axis];
    rest /= p.batch[axis];
    a += at * p.a[axis];
    b += at * p.b[axis];
    c += at * p.c[axis];
  }
  out[i] = a;
  out[count + i] = b;
  out[2 * count + i] = c;
}

}  // namespace flame
