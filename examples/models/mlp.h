// Three linear layers, 784-256-256-10. Parameters are registered under the names that bench/torch_compare.py gives them, so
// weights of either load into the other.
#pragma once
#include <flame/flame.h>

struct Mlp : flame::nn::Module {
  flame::nn::Module m{*this, "m"};
  flame::nn::Linear fc1{m, "1", {.in = 784, .out = 256, .activation = flame::Activation::relu}};
  flame::nn::Linear fc2{m, "3", {.in = 256, .out = 256, .activation = flame::Activation::relu}};
  flame::nn::Linear fc3{m, "5", {.in = 256, .out = 10}};

  // [n, 1, 28, 28] -> what goes into the last layer [n, 256].
  flame::Tensor body(const flame::Tensor& x) { return fc2(fc1(x.flatten(1))); }
  // -> a score for each class [n, 10].
  flame::Tensor forward(const flame::Tensor& x) { return fc3(body(x)); }
  flame::Tensor loss(const flame::Tensor& x, const flame::Tensor& label) { return cross_entropy(forward(x), label); }
  std::string kind() const override { return "Mlp"; }
};
