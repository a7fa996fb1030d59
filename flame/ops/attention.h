// Scaled dot-product attention by tiles with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): the
// matrix of scores is never built, neither forward nor backward.
#pragma once
#include <optional>

#include "flame/ops/random.h"

namespace flame {

struct AttentionOptions {
  // Broadcasts to [..., H, L, S]. bool: true takes part, and what does not has no say, be its score Inf or NaN; floating:
  // added to the scores.
  Tensor mask = {};
  bool causal = false;  // query i sees keys j <= i only, counted from the first of each; together with a mask both hold
  double dropout = 0;   // of the weights, with probability p; whoever evaluates passes 0
  std::optional<double> scale = {};  // 1 / sqrt(E)
  bool grouped_query = false;  // H query heads share K key and value heads, H / K neighbours each (Ainslie et al. 2023)
  Generator* generator = nullptr;  // of the dropout; default_generator()
};
// softmax(scale q k^T + mask) v. q: [..., H, L, E], k: [..., K, S, E], v: [..., K, S, D] -> [..., H, L, D], of rank 2 or more;
// K is H, or 1, or with grouped_query a divisor of H; the axes before are batches and broadcast. Floating dtypes, promoted;
// float16 and bfloat16 are computed in float32 and rounded once; with 64 keys or more on a GPU, weights are rounded to the
// dtype too. A row without a key that takes part (or with -Inf for all of them) gives zeros and no gradient, as in PyTorch.
// The output lies in memory in the order of q's axes.
// Dropout draws as bernoulli of shape [batches, H, L, S] does; backward draws again instead of keeping the mask. Backward
// keeps the inputs, the output and one number a row. Only a second derivative (create_graph) and the gradient of the mask
// itself go through composed ops that do hold the [L, S] scores. Errors: ShapeError, DTypeError, ValueError (dropout).
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o = {},
                                    Loc loc = Loc::current());

}  // namespace flame
