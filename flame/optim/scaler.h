// Dynamic loss scaling for float16, wholly on the device (PyTorch's torch.amp.GradScaler).
#pragma once
#include "flame/optim/optimizer.h"

namespace flame::optim {

struct GradScalerOptions {
  double init_scale = 65536;
  double growth_factor = 2, backoff_factor = 0.5;
  int64_t growth_interval = 2000;  // steps with finite gradients before the scale grows
};

// Small gradients of float16 activations become zeros; those of a loss that is scaled up do not:
//   backward(scaler.scale(loss));
//   opt.step({.scaler = &scaler});  // takes the scale away; skipped if a gradient is NaN or infinite
//   scaler.update();                // then smaller by backoff_factor; after growth_interval steps larger by growth_factor
// Nothing is read on the host, so steps with it are recorded like any others. ValueError for options out of range.
class GradScaler {
 public:
  explicit GradScaler(const GradScalerOptions& o = {}, Device& d = default_device(), Loc loc = Loc::current());
  Tensor scale(const Tensor& loss, Loc loc = Loc::current()) const;  // of float32, or float64 of a float64 loss
  // After the optimizers of an iteration: one scale serves them all, and falls if one of them was skipped. ValueError if none
  // has made a step.
  void update(Loc loc = Loc::current());
  double value(Loc loc = Loc::current()) const;  // the scale, read on the host

  // "scale" and "growth_tracker" (float32): the steps since the scale changed. A load that throws changes nothing.
  std::vector<std::pair<std::string, Tensor>> state_dict() const;
  void load_state(const std::vector<std::pair<std::string, Tensor>>& entries, Loc loc = Loc::current());

  // For optimizers: the State (the scale, and how often it was good), and the factor of a step, NaN if it was skipped.
  Tensor factor() const { return state_.tensor(); }
  Device& device() const { return state_.device(); }
  void found(const Tensor& factor) { found_.push_back(factor); }

 private:
  GradScalerOptions options_;
  State state_;
  std::vector<Tensor> found_;
};

}  // namespace flame::optim
