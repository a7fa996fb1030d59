// Adafactor (Shazeer and Stern 2018) as in torch.optim: second moments of a matrix as one number a row and a column.
#pragma once
#include <optional>

#include "flame/optim/optimizer.h"

namespace flame::optim {

struct AdafactorOptions {
  double lr = 1e-2;
  double beta2_decay = -0.8;        // step t averages with weight t^beta2_decay
  std::optional<double> eps1 = {};  // the least root of a second moment; none: the rounding of float32 (or float64)
  double eps2 = 1e-3;               // the least scale of a parameter
  double d = 1;                     // an update whose root mean square is larger is scaled down to it
  double weight_decay = 0;          // p -= lr * weight_decay * p
  bool relative_step = true;        // step t runs at min(lr, 1 / sqrt(t)), else at lr
  bool scale_parameter = true;      // times max(eps2, root mean square of the parameter)
  bool maximize = false;
};
// Parameters of two axes or more are factored along their last two; the others keep a whole second moment.
extern template class OptimizerOf<AdafactorOptions>;
using Adafactor = OptimizerOf<AdafactorOptions>;

}  // namespace flame::optim
