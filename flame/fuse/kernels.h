// Internal: block kernels of the CPU interpreter. Each works on n contiguous elements held in L1.
#pragma once
#include <cstdint>

#include "flame/fuse/island.h"

namespace flame {

// out[i] = op(a[i], b[i], c[i]); out may equal an input. 16-bit dtypes never get here: they are computed in float32.
using BlockFn = void (*)(const void* a, const void* b, const void* c, void* out, int64_t n);
// The kernel for `code` on inputs of dtype `compute`; null if the table has none. Best instruction set of this CPU.
// Bit k of `same` allows it to read the first element of input k for all: the block holds one number throughout.
BlockFn block_kernel(Code code, DType compute, unsigned same = 0);

// One op of a chain, on the running value and an input of its own, which may be one number (`same`) or the left operand
// (`swapped`).
struct ChainOp {
  Code code;
  bool same, swapped;
  const void* other;  // null for ops of one input
};
constexpr int longest_chain = 8;
using ChainFn = void (*)(const ChainOp* ops, int count, const void* in, void* out, int64_t n);
ChainFn chain_kernel(DType t);         // float32, float64
bool joins_chain(Code code, DType t);  // whether a chain may hold this op on inputs of dtype t

// out[i] = static_cast<to>(in[i]), PyTorch's rules (float to bool is != 0; float to int truncates).
BlockFn cast_kernel(DType from, DType to);  // all dtypes, 16-bit included; uses only `a`
// x[i] = float(bf16(x[i])) or float(f16(x[i])): rounding between 16-bit ops held in float32 registers.
void round_block(DType t, float* x, int64_t n);

// Combines n contiguous elements into one, in an order that depends on n alone. Result in dtype `t` (not 16-bit).
using ReduceFn = void (*)(const void* x, void* out, int64_t n);
ReduceFn row_reduce_kernel(Reduce r, DType t);
// acc[i] = op(acc[i], x[i]).
BlockFn combine_kernel(Reduce r, DType t);  // a = acc, b = x, out = acc
// Writes the identity of the reduction n times.
void fill_identity(Reduce r, DType t, void* out, int64_t n);

// Copies past the caches, for outputs larger than they are; stream_fence() before another thread may read.
void stream_block(const void* from, void* to, size_t bytes);
void stream_fence();

}  // namespace flame
