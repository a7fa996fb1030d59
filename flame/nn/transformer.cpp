// The encoder layer: attention and a feed-forward part, each with a residual connection and a layer norm.
#include "flame/nn/transformer.h"

#include "flame/nn/options_internal.h"
#include "flame/ops/dropout.h"
#include "flame/ops/linear.h"
#include "flame/ops/pointwise.h"

namespace flame::nn {
namespace {
const TransformerEncoderLayerOptions& checked(const TransformerEncoderLayerOptions& o, Loc loc) {
  if (o.hidden < 1) fail<ValueError>(loc, "TransformerEncoderLayer: expected hidden of 1 or more, got {}", o.hidden);
  check_probability("TransformerEncoderLayer", o.dropout, loc);
  return o;
}
}  // namespace

TransformerEncoderLayer::TransformerEncoderLayer(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked(o, loc)),
      self_attn(*this, "self_attn",
                {.width = o.width,
                 .heads = o.heads,
                 .dropout = o.dropout,
                 .bias = o.bias,
                 .batch_first = o.batch_first,
                 .dtype = o.dtype},
                loc),
      linear1(*this, "linear1",
              {.in = o.width, .out = o.hidden, .bias = o.bias, .dtype = o.dtype, .activation = o.activation}, loc),
      linear2(*this, "linear2", {.in = o.hidden, .out = o.width, .bias = o.bias, .dtype = o.dtype}, loc),
      norm1(*this, "norm1", {.normalized = {o.width}, .eps = o.eps, .bias = o.bias, .dtype = o.dtype}, loc),
      norm2(*this, "norm2", {.normalized = {o.width}, .eps = o.eps, .bias = o.bias, .dtype = o.dtype}, loc) {}

Tensor TransformerEncoderLayer::dropped(const Tensor& x, Loc loc) const {
  return dropout(x, options.dropout, is_training(), nullptr, loc);
}
Tensor TransformerEncoderLayer::attended(const Tensor& x, const EncoderCall& call, Loc loc) {
  const AttentionCall inner{.key_padding_mask = call.key_padding_mask, .mask = call.mask, .causal = call.causal};
  return dropped(self_attn(x, x, x, inner, loc), loc);
}
Tensor TransformerEncoderLayer::fed_forward(const Tensor& x, Loc loc) {
  if (options.dropout == 0 || !is_training()) {
    const auto bias = [](const nn::Linear& l) { return l.bias.defined() ? l.bias.tensor() : Tensor(); };
    return feed_forward(x, linear1.weight.tensor(), bias(linear1), linear2.weight.tensor(), bias(linear2),
                        {.activation = options.activation}, loc);
  }
  return dropped(linear2(dropped(linear1(x, loc), loc), loc), loc);
}

Tensor TransformerEncoderLayer::forward(const Tensor& x, const EncoderCall& call, Loc loc) {
  if (options.norm_first) {
    const Tensor y = add(x, attended(norm1(x, loc), call, loc), loc);
    return add(y, fed_forward(norm2(y, loc), loc), loc);
  }
  const Tensor y = norm1(add(x, attended(x, call, loc), loc), loc);
  return norm2(add(y, fed_forward(y, loc), loc), loc);
}

std::string TransformerEncoderLayer::kind() const {
  return fmt::format("TransformerEncoderLayer({}, {} heads, hidden {})", options.width, options.heads, options.hidden);
}

}  // namespace flame::nn
