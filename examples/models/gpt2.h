// GPT-2 (Radford et al. 2019): pre-norm blocks, learned positions, the token table also as output layer. Parameters are
// registered under the names that bench/torch_compare.py gives them, so weights of either load into the other.
#pragma once
#include <flame/flame.h>

#include <vector>

struct Gpt2Options {
  int64_t vocabulary = 50304, context = 1024, width = 768, heads = 12, layers = 12;
};

struct Gpt2Block : flame::nn::Module {
  using Options = Gpt2Options;
  Gpt2Block(flame::nn::Module& parent, std::string name, const Gpt2Options& o, flame::Loc loc)
      : Module(parent, std::move(name), loc), options(o) {}

  const Gpt2Options options;
  flame::nn::LayerNorm norm1{*this, "l1", {.normalized = {options.width}}};
  flame::nn::Linear qkv{*this, "qkv", {.in = options.width, .out = 3 * options.width}};
  flame::nn::Linear out{*this, "o", {.in = options.width, .out = options.width}};
  flame::nn::LayerNorm norm2{*this, "l2", {.normalized = {options.width}}};
  flame::nn::Linear up{*this, "u", {.in = options.width, .out = 4 * options.width}};
  flame::nn::Linear down{*this, "d", {.in = 4 * options.width, .out = options.width}};

  flame::Tensor attention(const flame::Tensor& x) {
    const int64_t n = x.size(0), t = x.size(1), head = options.width / options.heads;
    std::vector<flame::Tensor> of = chunk(qkv(x), 3, -1);
    for (flame::Tensor& h : of) h = h.reshape({n, t, options.heads, head}).transpose(1, 2);
    const flame::Tensor y = scaled_dot_product_attention(of[0], of[1], of[2], {.causal = true});
    return out(y.transpose(1, 2).reshape({n, t, options.width}));
  }
  // [n, t, width] -> [n, t, width]
  flame::Tensor forward(const flame::Tensor& x) {
    const flame::Tensor y = x + attention(norm1(x));
    return y + feed_forward(norm2(y), up.weight, up.bias, down.weight, down.bias,
                            {.activation = flame::Activation::gelu_tanh});
  }
  std::string kind() const override { return "Gpt2Block"; }
};

struct Gpt2 : flame::nn::Module {
  explicit Gpt2(const Gpt2Options& o = {}) : options(o) {
    flame::nn::normal(tokens.weight, 0, 0.02);
    for (int64_t i = 0; i < o.layers; ++i) blocks.add(o);
  }

  const Gpt2Options options;
  flame::nn::Embedding tokens{*this, "te", {.count = options.vocabulary, .width = options.width}};
  flame::nn::Embedding positions{*this, "pe", {.count = options.context, .width = options.width}};
  flame::nn::ModuleList<Gpt2Block> blocks{*this, "b"};
  flame::nn::LayerNorm norm{*this, "ln", {.normalized = {options.width}}};

  // Tokens [n, t], t up to the context -> the residual stream after the last block [n, t, width].
  flame::Tensor body(const flame::Tensor& x) {
    flame::Tensor y = tokens(x) + positions.weight.tensor().narrow(0, 0, x.size(1));
    for (Gpt2Block& b : blocks) y = b.forward(y);
    return y;
  }
  // -> a score for each possible next token [n, t, vocabulary].
  flame::Tensor forward(const flame::Tensor& x) { return linear(norm(body(x)), tokens.weight); }
  flame::Tensor loss(const flame::Tensor& x, const flame::Tensor& next) {
    return linear_cross_entropy(norm(body(x)), tokens.weight, next);  // scores of all tokens never exist at once
  }
  std::string kind() const override { return "Gpt2"; }
};
