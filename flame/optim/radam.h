// RAdam, Adam whose first steps are rectified for the variance of its rate (Liu et al. 2020), as in PyTorch.
#pragma once
#include <array>

#include "flame/optim/optimizer.h"

namespace flame::optim {

struct RAdamOptions {
  double lr = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;       // g += weight_decay * p
  bool decoupled_decay = false;  // p -= lr * weight_decay * p instead
  bool maximize = false;
};
extern template class OptimizerOf<RAdamOptions>;
using RAdam = OptimizerOf<RAdamOptions>;

}  // namespace flame::optim
