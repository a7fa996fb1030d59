// The rest of torch.optim.lr_scheduler as values: decays, cycles, and schedules made of schedules. See schedule.h.
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "flame/optim/schedule.h"

namespace flame::optim {

// lr * factor(step).
struct LambdaLR {
  double lr;
  std::function<double(int64_t step)> factor = {};
  double at(int64_t step) const { return lr * factor(step); }
  void check(Loc loc) const;
};

// lr * factor(1) * ... * factor(step). The products so far are kept, so `factor` is called once a step.
class MultiplicativeLR {
 public:
  MultiplicativeLR(double lr, std::function<double(int64_t step)> factor);
  double at(int64_t step) const;
  void check(Loc loc) const;

 private:
  struct Products;
  std::shared_ptr<Products> products_;
};

// lr * gamma^n, where n counts whole spans of step_size.
struct StepLR {
  double lr;
  int64_t step_size;
  double gamma = 0.1;
  double at(int64_t step) const;
  void check(Loc loc) const;
};

// lr * gamma^n, where n counts the milestones reached; one written twice counts twice.
struct MultiStepLR {
  double lr;
  std::vector<int64_t> milestones = {};  // in order
  double gamma = 0.1;
  double at(int64_t step) const;
  void check(Loc loc) const;
};

// lr * start_factor at step 0, in a straight line to lr * end_factor at `steps`, which holds from there on.
struct LinearLR {
  double lr;
  double start_factor = 1.0 / 3;
  double end_factor = 1;
  int64_t steps = 5;
  double at(int64_t step) const;
  void check(Loc loc) const;
};

// lr * gamma^step.
struct ExponentialLR {
  double lr;
  double gamma;
  double at(int64_t step) const;
  void check(Loc loc) const;
};

// lr * (1 - step / steps)^power, 0 from `steps` on.
struct PolynomialLR {
  double lr;
  int64_t steps = 5;
  double power = 1;
  double at(int64_t step) const;
  void check(Loc loc) const;
};

// Half cosines from lr to eta_min, starting again after first_steps, and then after spans each `factor` times as long
// (SGDR, Loshchilov and Hutter 2017).
struct CosineAnnealingWarmRestarts {
  double lr;
  int64_t first_steps;
  int64_t factor = 1;
  double eta_min = 0;
  double at(int64_t step) const;
  void check(Loc loc) const;
};

enum class CycleMode : uint8_t { triangular, triangular2, exp_range };
// From base_lr up to max_lr over steps_up and back over steps_down, again and again (Smith 2017). The height halves
// each cycle in mode triangular2, and is times gamma^step in exp_range; or it is times `scale`.
struct CyclicLR {
  double base_lr, max_lr;
  int64_t steps_up = 2000;
  std::optional<int64_t> steps_down = {};  // none: steps_up
  CycleMode mode = CycleMode::triangular;
  double gamma = 1;
  std::function<double(int64_t)> scale = {};  // of the cycle, from 1, or of the step
  bool scale_by_step = false;
  bool cycle_momentum = false;  // from max_momentum down to base_momentum and back
  double base_momentum = 0.8, max_momentum = 0.9;
  double at(int64_t step) const;
  std::optional<double> momentum_at(int64_t step) const;
  void check(Loc loc) const;

 private:
  double height(int64_t step) const;
};

// lr times the rates of all factors: write them with `.lr = 1`. The first that moves the momentum decides it.
struct ChainedScheduler {
  double lr;
  std::vector<Schedule> factors = {};
  double at(int64_t step) const;
  std::optional<double> momentum_at(int64_t step) const;
  void check(Loc loc) const;
};

// One schedule after another, each from its step 0: schedules[i] begins at milestones[i - 1].
struct SequentialLR {
  std::vector<Schedule> schedules = {};
  std::vector<int64_t> milestones = {};  // rising, one fewer
  double at(int64_t step) const;
  std::optional<double> momentum_at(int64_t step) const;
  void check(Loc loc) const;
};

}  // namespace flame::optim
