// What all optimizers share: parameter groups, the one-launch step, schedules, and state that resumes bit for bit.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "flame/optim/schedule.h"
#include "flame/tensor/tensor.h"

namespace flame::optim {

// Parameters that share their options: `AdamW opt{{{.parameters = a, .options = {.lr = 1e-3}}, {...}}};`
template <class Options>
struct ParameterGroup {
  std::vector<Parameter> parameters;
  Options options = {};
};

class GradScaler;  // see scaler.h

struct StepOptions {
  bool keep_gradients = false;
  // Above 0: clips as clip_grad_norm(parameters, max_norm) before, without writing scaled gradients; the bits are the same.
  double max_norm = 0;
  // Set: the gradients are those of a loss that it scaled. They are taken without the scale, and if one of them is NaN or
  // infinite, the step changes nothing but step_count(), where a schedule stands.
  GradScaler* scaler = nullptr;
};

struct Rule;   // an algorithm, see optimizer_internal.h
struct Hyper;  // a group's numbers
struct Core;

// Every optimizer takes options `lr`, `weight_decay` and `maximize` (steps uphill), and keeps its moments in float32 for
// parameters of 16 bits, in float64 for float64. Accumulating gradients needs no option: several backward() calls add
// up, so k micro-batches, each with loss / k, and then one step() are one large batch.
class Optimizer {
 public:
  Optimizer(Optimizer&&) noexcept;
  Optimizer& operator=(Optimizer&&) noexcept;
  ~Optimizer();

  // Updates every parameter that has a gradient, in one launch, and drops the gradients. The others keep their values
  // and their own step count. Should it throw (OutOfMemory, a gradient that does not fit), nothing has changed. Gives the
  // gradients' norm if it clips or has a scaler (0-d, as clip_grad_norm's), else nothing.
  Tensor step(const StepOptions& o = {}, Loc loc = Loc::current());
  void zero_grad() const;

  // Step n (from 0) runs at schedule.at(n), for all groups or one. A momentum that the schedule moves reaches groups with a
  // momentum alone; NAdam takes that of the step for all steps before it.
  void set_schedule(const Schedule& s);
  void set_schedule(size_t group, const Schedule& s, Loc loc = Loc::current());
  // A fixed rate from now on; a schedule of the group ends.
  void set_lr(double lr, Loc loc = Loc::current());
  void set_lr(size_t group, double lr, Loc loc = Loc::current());
  double lr(size_t group = 0, Loc loc = Loc::current()) const;  // of the next step
  int64_t step_count() const;                                   // steps taken, those that a scaler skipped among them
  size_t groups() const;

  // "steps" (int64: all, then one a parameter), "options" (float64: a row a group) and the moments, as "0.exp_avg".
  // Loading restores all of it, learning rates included; schedules are set anew by the program. A load that throws
  // (ValueError, ShapeError or DTypeError, naming the entry) changes nothing.
  std::vector<std::pair<std::string, Tensor>> state_dict() const;
  void load_state(const std::vector<std::pair<std::string, Tensor>>& entries, Loc loc = Loc::current());

 protected:
  Optimizer(const Rule& rule, const std::vector<ParameterGroup<Hyper>>& groups, Loc loc);

 private:
  std::shared_ptr<Core> core_;  // shared with recorded steps, which may outlive the handle
};

// The optimizer of these options. Its errors: ValueError for options out of range, for an empty list, for a parameter
// that is undefined or given twice; DeviceError for parameters of two devices.
template <class O>
class OptimizerOf : public Optimizer {
 public:
  using Options = O;
  using Group = ParameterGroup<O>;
  explicit OptimizerOf(std::vector<Parameter> parameters, const O& o = {}, Loc loc = Loc::current())
      : OptimizerOf(std::vector<Group>{{std::move(parameters), o}}, loc) {}
  explicit OptimizerOf(const std::vector<Group>& groups, Loc loc = Loc::current());
};

}  // namespace flame::optim
