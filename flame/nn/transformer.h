// The encoder layer of "Attention is all you need" (Vaswani et al. 2017), with PyTorch's names.
#pragma once
#include "flame/nn/attention.h"
#include "flame/nn/norm.h"

namespace flame::nn {

using flame::Activation;

struct TransformerEncoderLayerOptions {
  int64_t width, heads;
  int64_t hidden = 2048;  // of the feed-forward part
  double dropout = 0.1;   // after attention, in and after the feed-forward part, and of the attention's weights
  Activation activation = Activation::relu;
  double eps = 1e-5;
  bool batch_first = false;  // [N, L, width] instead of [L, N, width]
  bool norm_first = false;   // x + f(norm(x)) instead of norm(x + f(x))
  bool bias = true;
  DType dtype = DType::f32;
};
struct EncoderCall {  // as in AttentionCall
  Tensor mask = {};
  Tensor key_padding_mask = {};
  bool causal = false;
};
// Children self_attn, linear1, linear2, norm1 and norm2.
class TransformerEncoderLayer : public Layer {
 public:
  using Options = TransformerEncoderLayerOptions;
  explicit TransformerEncoderLayer(const Options& o, Loc loc = Loc::current())
      : TransformerEncoderLayer(nullptr, {}, o, loc) {}
  TransformerEncoderLayer(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : TransformerEncoderLayer(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, const EncoderCall& call, Loc loc = Loc::current());
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override { return forward(x, {}, loc); }
  using Layer::operator();
  Tensor operator()(const Tensor& x, const EncoderCall& call, Loc loc = Loc::current()) {
    return forward(x, call, loc);
  }
  std::string kind() const override;

  const Options options;
  MultiheadAttention self_attn;
  Linear linear1, linear2;
  LayerNorm norm1, norm2;

 private:
  TransformerEncoderLayer(Module* parent, std::string name, const Options& o, Loc loc);
  Tensor dropped(const Tensor& x, Loc loc) const;
  Tensor attended(const Tensor& x, const EncoderCall& call, Loc loc);
  Tensor fed_forward(const Tensor& x, Loc loc);
};

}  // namespace flame::nn
