// Reading a number of a training step without waiting for it: the value of step n is handed out at step n + 1.
#pragma once
#include <optional>

#include "flame/tensor/tensor.h"

namespace flame::train {

// LateValue losses;
// while (...) if (auto loss = losses.push(step(images, labels))) show(*loss);   // of the step before
class LateValue {
 public:
  // Keeps a copy of one number (any dtype, on its device), and gives the one that was pushed before, if any is left.
  std::optional<double> push(const Tensor& value, Loc loc = Loc::current());
  // The one that is left; waits for it.
  std::optional<double> take(Loc loc = Loc::current());

 private:
  State kept_[2];  // in turn, so that a copy is on its way while the other is read
  int last_ = 0;
  bool full_ = false;
};

}  // namespace flame::train
