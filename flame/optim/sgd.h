// Stochastic gradient descent with momentum (Polyak's or Nesterov's) and L2 decay, as PyTorch computes it.
#pragma once
#include "flame/optim/optimizer.h"

namespace flame::optim {

struct SGDOptions {
  double lr = 1e-3;
  double momentum = 0;  // buffer = momentum * buffer + (1 - dampening) * g; the first step starts it at g
  double dampening = 0;
  double weight_decay = 0;  // g += weight_decay * p
  bool nesterov = false;    // p -= lr * (g + momentum * buffer); needs momentum, and no dampening
  bool maximize = false;
};
extern template class OptimizerOf<SGDOptions>;
using SGD = OptimizerOf<SGDOptions>;

}  // namespace flame::optim
