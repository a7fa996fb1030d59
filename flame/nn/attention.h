// Multi-head attention, with PyTorch's names and layouts.
#pragma once
#include "flame/nn/linear.h"

namespace flame::nn {

struct MultiheadAttentionOptions {
  int64_t width, heads;  // heads divide the width
  double dropout = 0;    // of the weights, in training mode
  bool bias = true;
  bool add_bias_kv = false;                // a learned key and value behind the others
  bool add_zero_attn = false;              // and a key and value of zeros; every query sees both, whatever the masks
  int64_t key_width = 0, value_width = 0;  // of the keys' and values' inputs; 0: width
  bool batch_first = false;                // [N, L, width] instead of [L, N, width]
  DType dtype = DType::f32;
};
struct AttentionCall {
  Tensor key_padding_mask = {};  // [N, S]; bool: true is left out (PyTorch's meaning here); floating: added
  Tensor mask = {};              // [L, S] or [N * heads, L, S]; bool: true is left out; floating: added
  bool causal = false;           // query i sees keys j <= i only
  bool need_weights = false;     // builds the [L, S] weights
  bool average_weights = true;   // over the heads
};
struct AttentionResult {
  Tensor out;      // as the query, of `width`
  Tensor weights;  // [N, L, S] or, not averaged, [N, heads, L, S], S with what was added; undefined unless asked for
};

// in_proj_weight [3 width, width] (uniform on +-sqrt(6 / (4 width))), or q_proj_weight, k_proj_weight and v_proj_weight where
// keys or values have widths of their own; in_proj_bias [3 width] and out_proj.bias from 0; out_proj as Linear; bias_k
// and bias_v [1, 1, width], normal with deviation 1 / sqrt(width), if add_bias_kv. Inputs of rank 2 are one sample.
class MultiheadAttention : public Module {
 public:
  using Options = MultiheadAttentionOptions;
  explicit MultiheadAttention(const Options& o, Loc loc = Loc::current()) : MultiheadAttention(nullptr, {}, o, loc) {}
  MultiheadAttention(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : MultiheadAttention(&parent, std::move(name), o, loc) {}
  AttentionResult forward(const Tensor& query, const Tensor& key, const Tensor& value, const AttentionCall& call = {},
                          Loc loc = Loc::current());
  Tensor operator()(const Tensor& query, const Tensor& key, const Tensor& value, const AttentionCall& call = {},
                    Loc loc = Loc::current()) {
    return forward(query, key, value, call, loc).out;
  }
  std::string kind() const override;

  const Options options;
  Param in_proj_weight, q_proj_weight, k_proj_weight, v_proj_weight, in_proj_bias;
  Linear out_proj;
  Param bias_k, bias_v;

 private:
  MultiheadAttention(Module* parent, std::string name, const Options& o, Loc loc);
  std::vector<Tensor> project(const Tensor& query, const Tensor& key, const Tensor& value, Loc loc) const;
  Tensor extended(const Tensor& x, const Param& last, Loc loc) const;
  Tensor merged_mask(const AttentionCall& call, int64_t batch, int64_t rows, int64_t keys, DType t, Loc loc) const;
};

}  // namespace flame::nn
