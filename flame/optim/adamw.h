// Adam (Kingma and Ba 2015), and AdamW with decoupled weight decay (Loshchilov and Hutter 2019), as in PyTorch.
#pragma once
#include <array>

#include "flame/optim/optimizer.h"

namespace flame::optim {

struct AdamWOptions {
  double lr = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0.01;  // p -= lr * weight_decay * p
  bool amsgrad = false;        // divides by the largest second moment so far (Reddi et al. 2018)
  bool maximize = false;
};
extern template class OptimizerOf<AdamWOptions>;
using AdamW = OptimizerOf<AdamWOptions>;

struct AdamOptions {
  double lr = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;  // added to the gradient: g += weight_decay * p
  bool amsgrad = false;
  bool maximize = false;
};
extern template class OptimizerOf<AdamOptions>;
using Adam = OptimizerOf<AdamOptions>;

}  // namespace flame::optim
