// The network: two convolutions and two linear layers; 421,642 numbers are learned.
#pragma once
#include <flame/flame.h>

struct Net : flame::nn::Module {
  flame::nn::Conv2d conv1{*this, "conv1", {.in = 1, .out = 32, .kernel = 3, .padding = 1}};
  flame::nn::Conv2d conv2{*this, "conv2", {.in = 32, .out = 64, .kernel = 3, .padding = 1}};
  flame::nn::Linear fc1{*this, "fc1", {.in = 64 * 7 * 7, .out = 128}};
  flame::nn::Dropout dropout{*this, "dropout", {.p = 0.25}};
  flame::nn::Linear fc2{*this, "fc2", {.in = 128, .out = 10}};

  // Images as bytes [n, 28, 28] -> a score for each class [n, 10].
  flame::Tensor forward(const flame::Tensor& images) {
    flame::Tensor x = images.unsqueeze(1).to(flame::DType::f32) / 255;
    x = max_pool2d(relu(conv1(x)), {.kernel = 2});
    x = max_pool2d(relu(conv2(x)), {.kernel = 2});
    return fc2(dropout(relu(fc1(x.flatten(1)))));
  }
  std::string kind() const override { return "Net"; }
};
