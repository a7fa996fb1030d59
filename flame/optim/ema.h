// Exponential moving averages of a module's parameters, kept beside them; updated in one launch, also in a recorded
// step.
#pragma once
#include <memory>

#include "flame/nn/module.h"

namespace flame::optim {

struct EMAOptions {
  double decay = 0.999;  // average = decay * average + (1 - decay) * parameter
  bool warmup = false;   // the decay of update n (from 0) is at most (1 + n) / (10 + n)
  bool buffers = false;  // averages floating buffers too; otherwise, and integer ones always, the latest are kept
};

// Averages start at the parameters as they are when it is made. They are float32 for parameters of 16 bits. ValueError
// for a decay outside [0, 1] and for a module without parameters, DeviceError if its states lie on several devices.
class EMA {
 public:
  explicit EMA(const nn::Module& module, const EMAOptions& o = {}, Loc loc = Loc::current());
  EMA(EMA&&) noexcept;
  EMA& operator=(EMA&&) noexcept;
  ~EMA();

  // After each optimizer step. Should it throw, nothing has changed but, for want of memory, the averages of integer buffers
  // may lag behind. ValueError while swapped in.
  void update(Loc loc = Loc::current());
  int64_t updates() const;

  // Writes the averages into a module of the same structure, such as the averaged one; cast to its dtypes.
  void copy_to(nn::Module& module, Loc loc = Loc::current()) const;
  // The module computes with the averages between the two calls, as for an evaluation.
  void swap_in(Loc loc = Loc::current());
  void swap_out(Loc loc = Loc::current());

  // The averages under the module's names, and "updates" (int64). A load that throws (ValueError, ShapeError or
  // DTypeError, naming the entry) changes nothing.
  nn::NamedTensors state_dict() const;
  void load_state(const nn::NamedTensors& entries, Loc loc = Loc::current());

 private:
  struct Core;
  std::shared_ptr<Core> core_;  // shared with recorded steps
};

}  // namespace flame::optim
