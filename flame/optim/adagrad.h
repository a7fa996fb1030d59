// Adagrad (Duchi et al. 2011), as in PyTorch.
#pragma once
#include "flame/optim/optimizer.h"

namespace flame::optim {

struct AdagradOptions {
  double lr = 1e-2;
  double lr_decay = 0;      // step n (from 0) runs at lr / (1 + n * lr_decay)
  double weight_decay = 0;  // g += weight_decay * p
  double initial_accumulator_value = 0;
  double eps = 1e-10;
  bool maximize = false;
};
extern template class OptimizerOf<AdagradOptions>;
using Adagrad = OptimizerOf<AdagradOptions>;

}  // namespace flame::optim
