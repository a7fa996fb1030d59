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
};
// Moments are float32 for parameters of 16 bits, float64 for float64.
class AdamW : public Optimizer {
 public:
  using Options = AdamWOptions;
  using Group = ParameterGroup<Options>;
  explicit AdamW(std::vector<Parameter> parameters, const Options& o = {}, Loc loc = Loc::current());
  explicit AdamW(const std::vector<Group>& groups, Loc loc = Loc::current());
};

struct AdamOptions {
  double lr = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;  // added to the gradient: g += weight_decay * p
};
class Adam : public Optimizer {
 public:
  using Options = AdamOptions;
  using Group = ParameterGroup<Options>;
  explicit Adam(std::vector<Parameter> parameters, const Options& o = {}, Loc loc = Loc::current());
  explicit Adam(const std::vector<Group>& groups, Loc loc = Loc::current());
};

}  // namespace flame::optim
