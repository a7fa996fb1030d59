// Learning-rate schedules: values whose rate is a pure function of the number of steps taken, so that a checkpoint
// needs nothing but the step. The numbers are those of torch.optim.lr_scheduler; where PyTorch starts from the
// optimizer's rate, a schedule has its own `lr`. More are in schedules.h; plateau.h has the one that needs a metric.
#pragma once
#include <concepts>
#include <functional>
#include <optional>

#include "flame/core/error.h"

namespace flame::optim {

// Any of the structs below, a function of the step, or a struct of your own with `double at(int64_t step) const`
// (and, if it wants, `std::optional<double> momentum_at(int64_t)` and `void check(Loc)`).
class Schedule {
 public:
  Schedule() = default;  // none
  template <class S>
    requires(!std::same_as<S, Schedule>) &&
            (std::invocable<const S&, int64_t> || requires(const S& s) { s.at(int64_t{}); })
  Schedule(S s, Loc loc = Loc::current()) {
    if constexpr (requires { s.check(loc); }) s.check(loc);
    if constexpr (requires { s.momentum_at(int64_t{}); })
      momentum_ = [s](int64_t step) -> std::optional<double> { return s.momentum_at(step); };
    if constexpr (requires { s.at(int64_t{}); }) rate_ = [s](int64_t step) -> double { return s.at(step); };
    else rate_ = std::move(s);
  }
  bool defined() const { return static_cast<bool>(rate_); }
  double at(int64_t step) const { return rate_(step); }
  // SGD's momentum or Adam's first beta, for schedules that move it.
  std::optional<double> momentum_at(int64_t step) const { return momentum_ ? momentum_(step) : std::nullopt; }

 private:
  std::function<double(int64_t)> rate_;
  std::function<std::optional<double>(int64_t)> momentum_;
};

// lr * factor for the first `steps` steps, then lr: with the defaults always lr.
struct ConstantLR {
  double lr;
  double factor = 1.0;
  int64_t steps = 0;
  double at(int64_t step) const { return step < steps ? lr * factor : lr; }
  void check(Loc loc) const;
};

// From lr at step 0 along half a cosine to eta_min at `steps`, and eta_min from there on (Loshchilov and Hutter 2017).
struct CosineAnnealing {
  double lr;
  int64_t steps;
  double eta_min = 0;
  double at(int64_t step) const;
  void check(Loc loc) const;
};

enum class Anneal : uint8_t { cosine, linear };
// From max_lr / div_factor up to max_lr over the first pct_start of the steps, then down to max_lr / div_factor /
// final_div_factor at the last one, which holds from there on (Smith and Topin 2018, in two phases).
struct OneCycle {
  double max_lr;
  int64_t total_steps;
  double pct_start = 0.3;
  Anneal anneal = Anneal::cosine;
  double div_factor = 25;
  double final_div_factor = 1e4;
  bool cycle_momentum = false;  // from max_momentum down to base_momentum and back
  double base_momentum = 0.85, max_momentum = 0.95;
  double at(int64_t step) const;
  std::optional<double> momentum_at(int64_t step) const;
  void check(Loc loc) const;
};

// Scales the first rate of `then` from start_factor to 1 over `steps`, and goes on with `then` from its step 0.
struct LinearWarmup {
  int64_t steps;
  double start_factor = 1.0 / 3;
  Schedule then = {};
  double at(int64_t step) const;
  std::optional<double> momentum_at(int64_t step) const;
  void check(Loc loc) const;
};

}  // namespace flame::optim
