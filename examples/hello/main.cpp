// A first program: a small network learns a curve from points, in a recorded training step.
#include <flame/flame.h>

#include <cstdio>

using namespace flame;

struct Net : nn::Module {
  nn::Linear hidden{*this, "hidden", {.in = 1, .out = 64}};
  nn::Linear head{*this, "head", {.in = 64, .out = 1}};
  Tensor forward(const Tensor& x) { return head(tanh(hidden(x))); }
};

int main() {
  Net net;
  optim::AdamW opt{net.parameters(), {.lr = 1e-2}};
  auto step = record([&](const Tensor& x, const Tensor& y) {  // without record() the same numbers, only slower
    Tensor loss = mse_loss(net.forward(x), y);
    backward(loss);
    opt.step();  // and drops the gradients
    return loss;
  });
  for (int i = 0; i <= 1000; ++i) {
    Tensor x = uniform({256, 1}, -2, 2);
    Tensor loss = step(x, sin(x * 3));
    if (i % 200 == 0) std::printf("step %4d  loss %.5f\n", i, loss.item());
  }
}
