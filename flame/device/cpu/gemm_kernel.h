// Internal: the inner kernels of FLAME's own matrix product, one set per dtype, for the best instruction set of this CPU.
#pragma once
#include <cstddef>
#include <cstdint>

#include "flame/core/dtype.h"

namespace flame {

// A product in pieces: operands are packed into panels, panels multiplied into accumulators, accumulators stored.
// 16-bit floats accumulate in float32, small integers in int32, the others in their own type.
struct GemmKernel {
  int mr, nr;          // rows and columns of a tile
  size_t accumulator;  // bytes of one
  // out[p * width + i] = x[i * across + p * along] for i < count, then zeros up to the panel's width.
  using Pack = void (*)(const void* x, int64_t across, int64_t along, int64_t count, int64_t depth, void* out);
  Pack pack_a, pack_b;  // panels of width mr and nr
  // acc[i * ld + j] = (add ? acc[i * ld + j] : 0) + sum over p of a[p * mr + i] * b[p * nr + j].
  void (*tile)(const void* a, const void* b, int64_t depth, void* acc, int64_t ld, bool add);
  // acc[i * ld + j] += sum over p < nr of a[i * nr + p] * b[p * nr + j]: `a` is what tile wrote with ld = nr.
  void (*tile_after_tile)(const void* a, const void* b, void* acc, int64_t ld);
  // y[i * rs + j * cs] = acc[i * ld + j] (+ bias[j]), rounded once.
  void (*store)(const void* acc, int64_t ld, int64_t rows, int64_t cols, const void* bias, void* y, int64_t rs,
                int64_t cs);
};
GemmKernel gemm_kernel(DType t);

// A product too small to be worth packing or threads. Strides count elements.
struct SmallGemm {
  int64_t m, n, k, a_rs, a_cs, b_rs, b_cs, c_rs, c_cs;
};
using SmallGemmFn = void (*)(const SmallGemm& g, const void* a, const void* b, const void* bias, void* c);
SmallGemmFn small_gemm_rows(DType t);  // float32 and float64, for b_cs == 1 and c_cs == 1
SmallGemmFn small_gemm_dots(DType t);  // float32 and float64, for a_cs == 1 and b_rs == 1

}  // namespace flame
