// Adamax, Adam with the infinity norm (Kingma and Ba 2015, section 7.1), as in PyTorch.
#pragma once
#include <array>

#include "flame/optim/optimizer.h"

namespace flame::optim {

struct AdamaxOptions {
  double lr = 2e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;  // g += weight_decay * p
  bool maximize = false;
};
extern template class OptimizerOf<AdamaxOptions>;
using Adamax = OptimizerOf<AdamaxOptions>;

}  // namespace flame::optim
