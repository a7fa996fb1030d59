// Two convolutions and two linear layers for pictures of 28 x 28. Parameters are registered under the names that
// bench/torch_compare.py gives them, so weights of either load into the other.
#pragma once
#include <flame/flame.h>

struct Cnn : flame::nn::Module {
  flame::nn::Module m{*this, "m"};
  flame::nn::Conv2d conv1{m, "0", {.in = 1, .out = 32, .kernel = 3, .padding = 1}};
  flame::nn::Conv2d conv2{m, "3", {.in = 32, .out = 64, .kernel = 3, .padding = 1}};
  flame::nn::Linear fc1{m, "7", {.in = 64 * 7 * 7, .out = 128, .activation = flame::Activation::relu}};
  flame::nn::Linear fc2{m, "9", {.in = 128, .out = 10}};

  // [n, 1, 28, 28] -> what goes into the last layer [n, 128].
  flame::Tensor body(const flame::Tensor& x) {
    const flame::Conv2dOptions same{.padding = 1, .activation = flame::Activation::relu};
    const flame::Tensor y = max_pool2d(conv2d(x, conv1.weight, conv1.bias, same), {.kernel = 2});
    return fc1(max_pool2d(conv2d(y, conv2.weight, conv2.bias, same), {.kernel = 2}).flatten(1));
  }
  // -> a score for each class [n, 10].
  flame::Tensor forward(const flame::Tensor& x) { return fc2(body(x)); }
  flame::Tensor loss(const flame::Tensor& x, const flame::Tensor& label) { return cross_entropy(forward(x), label); }
  std::string kind() const override { return "Cnn"; }
};
