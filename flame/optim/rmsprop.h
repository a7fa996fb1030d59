// RMSprop (Tieleman and Hinton 2012), plain, centered (Graves 2013) and with momentum, as in PyTorch.
#pragma once
#include "flame/optim/optimizer.h"

namespace flame::optim {

struct RMSpropOptions {
  double lr = 1e-2;
  double alpha = 0.99;  // of the averages: v = alpha * v + (1 - alpha) * g * g
  double eps = 1e-8;
  double weight_decay = 0;  // g += weight_decay * p
  double momentum = 0;
  bool centered = false;  // divides by an estimate of the gradient's deviation
  bool maximize = false;
};
extern template class OptimizerOf<RMSpropOptions>;
using RMSprop = OptimizerOf<RMSpropOptions>;

}  // namespace flame::optim
