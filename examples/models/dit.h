// A diffusion transformer (Peebles and Xie 2023): blocks whose norms are shifted, scaled and gated by a condition. Parameters
// are registered under the names that bench/torch_compare.py gives them, so weights of either load into the other.
#pragma once
#include <flame/flame.h>

#include <vector>

struct DitOptions {
  int64_t patches = 256, patch = 16, width = 768, heads = 12, layers = 12;  // a patch: 2 x 2 of 4 channels
  int64_t classes = 1001, time = 256;                                       // the last class: none; the embedded time
};

struct DitBlock : flame::nn::Module {
  using Options = DitOptions;
  DitBlock(flame::nn::Module& parent, std::string name, const DitOptions& o, flame::Loc loc)
      : Module(parent, std::move(name), loc), options(o) {}

  const DitOptions options;
  flame::nn::LayerNorm norm1{*this, "n1", {.normalized = {options.width}, .affine = false}};
  flame::nn::LayerNorm norm2{*this, "n2", {.normalized = {options.width}, .affine = false}};
  flame::nn::Linear qkv{*this, "qkv", {.in = options.width, .out = 3 * options.width}};
  flame::nn::Linear out{*this, "o", {.in = options.width, .out = options.width}};
  flame::nn::Linear up{*this, "u", {.in = options.width, .out = 4 * options.width}};
  flame::nn::Linear down{*this, "d", {.in = 4 * options.width, .out = options.width}};
  flame::nn::Linear modulation{*this, "ada", {.in = options.width, .out = 6 * options.width}};

  flame::Tensor attention(const flame::Tensor& x) {
    const int64_t n = x.size(0), t = x.size(1), head = options.width / options.heads;
    std::vector<flame::Tensor> of = chunk(qkv(x), 3, -1);
    for (flame::Tensor& h : of) h = h.reshape({n, t, options.heads, head}).transpose(1, 2);
    const flame::Tensor y = scaled_dot_product_attention(of[0], of[1], of[2]);
    return out(y.transpose(1, 2).reshape({n, t, options.width}));
  }
  // Of an activated condition [n, width]: shift, scale and gate for each half of the block, [n, 1, width].
  std::vector<flame::Tensor> modulations(const flame::Tensor& condition) {
    return chunk(modulation(condition).unsqueeze(1), 6, -1);
  }
  static flame::Tensor modulated(const flame::Tensor& x, const flame::Tensor& shift, const flame::Tensor& scale) {
    return x * (1 + scale) + shift;
  }
  // [n, t, width], by its modulations -> [n, t, width]
  flame::Tensor forward(const flame::Tensor& x, const std::vector<flame::Tensor>& m) {
    const flame::Tensor y = x + m[2] * attention(modulated(norm1(x), m[0], m[1]));
    return y + m[5] * feed_forward(modulated(norm2(y), m[3], m[4]), up.weight, up.bias, down.weight, down.bias,
                                   {.activation = flame::Activation::gelu_tanh});
  }
  std::string kind() const override { return "DitBlock"; }
};

struct Dit : flame::nn::Module {
  explicit Dit(const DitOptions& o = {}) : options(o) {
    for (int64_t i = 0; i < o.layers; ++i) blocks.add(o);
  }

  const DitOptions options;
  flame::nn::Param positions{*this, "pe", 0.02 * flame::randn({1, options.patches, options.width})};
  flame::nn::Linear in{*this, "i", {.in = options.patch, .out = options.width}};
  flame::nn::Sequential time{*this,
                             "t",
                             {flame::nn::layer<flame::nn::Linear>({.in = options.time, .out = options.width}),
                              flame::nn::layer<flame::nn::SiLU>(),
                              flame::nn::layer<flame::nn::Linear>({.in = options.width, .out = options.width})}};
  flame::nn::Embedding classes{*this, "y", {.count = options.classes, .width = options.width}};
  flame::nn::ModuleList<DitBlock> blocks{*this, "b"};
  flame::nn::LayerNorm norm{*this, "f", {.normalized = {options.width}}};
  flame::nn::Linear out{*this, "o", {.in = options.width, .out = options.patch}};

  // Patches [n, t, patch], embedded times [n, time], classes [n] -> the residual stream after the last block [n, t, width].
  flame::Tensor body(const flame::Tensor& x, const flame::Tensor& times, const flame::Tensor& labels) {
    const flame::Tensor condition = silu(time(times) + classes(labels));
    // Before the blocks: a block's last sum and the next one's first norm are then one launch.
    std::vector<std::vector<flame::Tensor>> modulations;
    for (DitBlock& b : blocks) modulations.push_back(b.modulations(condition));
    flame::Tensor y = in(x) + positions;
    for (size_t i = 0; DitBlock & b : blocks) y = b.forward(y, modulations[i++]);
    return y;
  }
  // -> [n, t, patch]
  flame::Tensor forward(const flame::Tensor& x, const flame::Tensor& times, const flame::Tensor& labels) {
    return out(norm(body(x, times, labels)));
  }
  flame::Tensor loss(const flame::Tensor& x, const flame::Tensor& times, const flame::Tensor& labels,
                     const flame::Tensor& target) {
    return mse_loss(forward(x, times, labels).to(flame::DType::f32), target);
  }
  std::string kind() const override { return "Dit"; }
};
