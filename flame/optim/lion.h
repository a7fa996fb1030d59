// Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms"): steps of one size, by a momentum's sign.
#pragma once
#include <array>

#include "flame/optim/optimizer.h"

namespace flame::optim {

struct LionOptions {
  double lr = 1e-4;
  std::array<double, 2> betas = {0.9, 0.99};  // p -= lr * sign(mix(g, m, betas[0])), then m = mix(g, m, betas[1])
  double weight_decay = 0;                    // p -= lr * weight_decay * p
  bool maximize = false;
};
extern template class OptimizerOf<LionOptions>;
using Lion = OptimizerOf<LionOptions>;

}  // namespace flame::optim
