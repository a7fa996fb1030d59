// ResNet-50 (He et al. 2016) with the stride in the 3 x 3 convolution, as torchvision has it; its names too.
#pragma once
#include <flame/flame.h>

#include <memory>
#include <vector>

struct ResNetOptions {
  std::vector<int64_t> blocks = {3, 4, 6, 3};  // of the four stages
  int64_t width = 64, classes = 1000;
};
struct BottleneckOptions {
  int64_t in, width, stride = 1;
  int64_t out() const { return 4 * width; }
};

struct Bottleneck : flame::nn::Module {
  using Options = BottleneckOptions;
  Bottleneck(flame::nn::Module& parent, std::string name, const BottleneckOptions& o, flame::Loc loc)
      : Module(parent, std::move(name), loc), options(o) {
    if (o.stride == 1 && o.in == o.out()) return;
    shortcut = std::make_unique<flame::nn::Sequential>(
        *this, "downsample",
        std::initializer_list{flame::nn::layer<flame::nn::Conv2d>(
                                  {.in = o.in, .out = o.out(), .kernel = 1, .stride = o.stride, .bias = false}),
                              flame::nn::layer<flame::nn::BatchNorm2d>({.channels = o.out()})});
  }

  const BottleneckOptions options;
  flame::nn::Conv2d conv1{*this, "conv1", {.in = options.in, .out = options.width, .kernel = 1, .bias = false}};
  flame::nn::BatchNorm2d norm1{*this, "bn1", {.channels = options.width}};
  flame::nn::Conv2d conv2{
      *this,
      "conv2",
      {.in = options.width, .out = options.width, .kernel = 3, .stride = options.stride, .padding = 1, .bias = false}};
  flame::nn::BatchNorm2d norm2{*this, "bn2", {.channels = options.width}};
  flame::nn::Conv2d conv3{*this, "conv3", {.in = options.width, .out = options.out(), .kernel = 1, .bias = false}};
  flame::nn::BatchNorm2d norm3{*this, "bn3", {.channels = options.out()}};
  std::unique_ptr<flame::nn::Sequential> shortcut;  // null: x itself

  flame::Tensor forward(const flame::Tensor& x) {
    flame::Tensor y = relu(norm1(conv1(x)));
    y = relu(norm2(conv2(y)));
    return relu(norm3(conv3(y)) + (shortcut ? (*shortcut)(x) : x));
  }
  std::string kind() const override { return "Bottleneck"; }
};

struct ResNet : flame::nn::Module {
  explicit ResNet(const ResNetOptions& o = {}) : options(o) {
    int64_t channels = o.width;
    for (size_t stage = 0; stage < o.blocks.size(); ++stage) {
      auto& list = *stages.emplace_back(
          std::make_unique<flame::nn::ModuleList<Bottleneck>>(*this, "layer" + std::to_string(stage + 1)));
      for (int64_t i = 0; i < o.blocks[stage]; ++i) {
        const BottleneckOptions b{.in = channels, .width = o.width << stage, .stride = stage > 0 && i == 0 ? 2 : 1};
        list.add(b);
        channels = b.out();
      }
    }
    head = std::make_unique<flame::nn::Linear>(*this, "fc", flame::nn::LinearOptions{.in = channels, .out = o.classes});
    for (auto& [name, p] : named_parameters())
      if (p.shape().rank() == 4) flame::nn::kaiming_normal(p, {.fan = flame::nn::Fan::out});
  }

  const ResNetOptions options;
  flame::nn::Conv2d conv1{
      *this, "conv1", {.in = 3, .out = options.width, .kernel = 7, .stride = 2, .padding = 3, .bias = false}};
  flame::nn::BatchNorm2d norm1{*this, "bn1", {.channels = options.width}};
  std::vector<std::unique_ptr<flame::nn::ModuleList<Bottleneck>>> stages;
  std::unique_ptr<flame::nn::Linear> head;

  // Pictures [n, 3, h, w] -> what the last block leaves [n, channels, h / 32, w / 32].
  flame::Tensor body(const flame::Tensor& x) {
    flame::Tensor y = max_pool2d(relu(norm1(conv1(x))), {.kernel = 3, .stride = 2, .padding = 1});
    for (auto& stage : stages)
      for (Bottleneck& b : *stage) y = b.forward(y);
    return y;
  }
  // -> a score for each class [n, classes].
  flame::Tensor forward(const flame::Tensor& x) { return (*head)(body(x).mean({2, 3})); }
  flame::Tensor loss(const flame::Tensor& x, const flame::Tensor& label) { return cross_entropy(forward(x), label); }
  std::string kind() const override { return "ResNet"; }
};
