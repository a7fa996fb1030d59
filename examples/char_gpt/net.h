// A GPT over characters (Radford et al. 2019): pre-norm blocks, learned positions, the token table also as output layer.
#pragma once
#include <flame/flame.h>

#include <cmath>

struct GptOptions {
  int64_t vocabulary, context = 128, width = 128, layers = 4, heads = 4;
  double dropout = 0.1;
};

struct Block : flame::nn::Module {
  using Options = GptOptions;
  Block(flame::nn::Module& parent, std::string name, const GptOptions& o, flame::Loc loc)
      : Module(parent, std::move(name), loc), options(o) {}

  const GptOptions options;
  flame::nn::LayerNorm norm1{*this, "norm1", {.normalized = {options.width}}};
  flame::nn::Linear qkv{*this, "qkv", {.in = options.width, .out = 3 * options.width}};
  flame::nn::Linear out{*this, "out", {.in = options.width, .out = options.width}};
  flame::nn::LayerNorm norm2{*this, "norm2", {.normalized = {options.width}}};
  flame::nn::Linear up{*this, "up", {.in = options.width, .out = 4 * options.width}};
  flame::nn::Linear down{*this, "down", {.in = 4 * options.width, .out = options.width}};
  flame::nn::Dropout dropout{*this, "dropout", {.p = options.dropout}};

  flame::Tensor attention(const flame::Tensor& x) {
    const int64_t n = x.size(0), t = x.size(1), head = options.width / options.heads;
    const flame::Tensor heads = qkv(x).reshape({n, t, 3, options.heads, head}).permute({2, 0, 3, 1, 4});
    const flame::Tensor y =
        scaled_dot_product_attention(heads.select(0, 0), heads.select(0, 1), heads.select(0, 2), {.causal = true});
    return out(y.transpose(1, 2).reshape({n, t, options.width}));
  }
  // [n, t, width] -> [n, t, width]
  flame::Tensor forward(const flame::Tensor& x) {
    const flame::Tensor y = x + dropout(attention(norm1(x)));
    return y + dropout(down(gelu(up(norm2(y)))));
  }
  std::string kind() const override { return "Block"; }
};

struct Gpt : flame::nn::Module {
  explicit Gpt(const GptOptions& o) : options(o) {
    for (int64_t i = 0; i < o.layers; ++i) blocks.add(o);
    for (auto& [name, p] : named_parameters())
      if (p.shape().rank() == 2) flame::nn::normal(p, 0, 0.02);
    // The residual stream is a sum of 2 layers' outputs a block; this keeps its variance (Radford et al. 2019).
    const double residual = 0.02 / std::sqrt(2.0 * static_cast<double>(o.layers));
    for (Block& b : blocks) {
      flame::nn::normal(b.out.weight, 0, residual);
      flame::nn::normal(b.down.weight, 0, residual);
      flame::nn::constant(b.qkv.bias, 0);
      flame::nn::constant(b.out.bias, 0);
      flame::nn::constant(b.up.bias, 0);
      flame::nn::constant(b.down.bias, 0);
    }
  }

  const GptOptions options;
  flame::nn::Param tokens{*this, "tokens", flame::zeros({options.vocabulary, options.width})};
  flame::nn::Param positions{*this, "positions", flame::zeros({options.context, options.width})};
  flame::nn::Dropout dropout{*this, "dropout", {.p = options.dropout}};
  flame::nn::ModuleList<Block> blocks{*this, "blocks"};
  flame::nn::LayerNorm norm{*this, "norm", {.normalized = {options.width}}};

  // Characters [n, t], t up to the context -> a score for each possible next one [n, t, vocabulary].
  flame::Tensor forward(const flame::Tensor& x) {
    const flame::Tensor table = tokens.tensor();
    flame::Tensor y = dropout(embedding(table, x) + positions.tensor().narrow(0, 0, x.size(1)));
    for (Block& b : blocks) y = b.forward(y);
    return linear(norm(y), table, {});
  }
  std::string kind() const override { return "Gpt"; }
};
