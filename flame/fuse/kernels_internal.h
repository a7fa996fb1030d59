// Internal: the tables that the kernel files make and kernels.cpp joins.
#pragma once
#include "flame/fuse/kernels.h"

namespace flame::kernels {

BlockFn float_kernel(Code code, DType compute, unsigned same);  // float32, float64; best instruction set of this CPU
BlockFn integer_kernel(Code code, DType compute);               // bool and integers
BlockFn simd_cast(DType from, DType to);  // between float32 and a 16-bit dtype; null for other pairs
void simd_round(DType t, float* x, int64_t n);
// Copies past the caches.
void stream_block(const void* from, void* to, size_t bytes);
void stream_fence();
ReduceFn float_reduce(Reduce r, DType t);  // float32, float64

}  // namespace flame::kernels
