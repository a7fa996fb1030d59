// NAdam, Adam with Nesterov's momentum (Dozat 2016), as in PyTorch.
#pragma once
#include <array>

#include "flame/optim/optimizer.h"

namespace flame::optim {

struct NAdamOptions {
  double lr = 2e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;       // g += weight_decay * p
  double momentum_decay = 4e-3;  // step t runs at momentum betas[0] * (1 - 0.96^(t * momentum_decay) / 2)
  bool decoupled_decay = false;  // p -= lr * weight_decay * p instead
  bool maximize = false;
};
extern template class OptimizerOf<NAdamOptions>;
using NAdam = OptimizerOf<NAdamOptions>;

}  // namespace flame::optim
