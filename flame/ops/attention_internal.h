// Internal: the plans of attention, and the vector kernels of one tile of scores.
#pragma once
#include "flame/device/device.h"

namespace flame {

struct AttentionFlags {
  bool causal, mask, dropout;
};
// Scalars of a launch: the scale, then for dropout what a word of Philox must stay below to be kept, the factor of kept
// weights, and the words of a Draw.
struct AttentionDraw {
  uint64_t seed, call, threshold;
  double factor;
};
AttentionDraw attention_draw(const Word* scalars);

// q [B, H, L, E], k [B, K, S, E], v [B, K, S, D] with K dividing H; mask broadcast against [B, H, L, S], its strides 0
// where its size is 1. (q, k, v, mask?) -> (out [B, H, L, D], lse [B, H, L]); lse is +Inf for a row without keys.
Ref<Plan> attention_cpu(std::span<const Meta> in, std::span<const Meta> out, const AttentionFlags& f);
// (q, k, v, out, lse, gradient of out, mask?) -> (dq, dk, dv).
Ref<Plan> attention_backward_cpu(std::span<const Meta> in, std::span<const Meta> out, const AttentionFlags& f);
// The same on a GPU.
Ref<Plan> attention_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out, const AttentionFlags& f);
Ref<Plan> attention_backward_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out,
                                  const AttentionFlags& f);

// Scores of a tile, keys down and queries across: s[key * columns + query]. All pointers are of float32 or float64.
struct ScoreTile {
  void* s;           // products of queries and keys; becomes the weights
  const void* bias;  // added, or null
  bool select;       // bias is 0 or -Inf: where it is -Inf it takes the score's place, whatever that is
  const void* keep;  // factors of dropout, or null
  int64_t keys;
  int64_t diagonal;  // with `causal`, key j takes part for query i if j <= i + diagonal
  bool causal;
  double scale;
};
struct AttentionKernel {
  int columns;  // queries of a tile: the columns of a GEMM tile
  // Weights before division by their sum. The running maxima and sums move on; factor is what older sums were scaled by.
  void (*softmax)(const ScoreTile& t, void* max, void* sum, void* factor);
  // Weights by their lse, times keep; dp (gradients of the weights) becomes scale * (gradients of the scores). Rows from
  // t.keys up to `rows` become 0 in both.
  void (*gradient)(const ScoreTile& t, const void* lse, const void* delta, int64_t rows, void* dp);
  void (*rescale)(void* x, int64_t rows, const void* factor);  // x[r * columns + i] *= factor[i]
};
AttentionKernel attention_kernel(DType accumulator);

}  // namespace flame
