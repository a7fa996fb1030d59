// The formulas of the learning-rate schedules.
#include "flame/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "flame/core/format.h"
#include "flame/optim/schedule_internal.h"

namespace flame::optim {
namespace {

// From `first` at 0 to `last` at 1.
double between(Anneal how, double first, double last, double part) {
  if (how == Anneal::linear) return (last - first) * part + first;
  return last + (first - last) / 2 * (std::cos(std::numbers::pi * part) + 1);
}

// OneCycleLR's two phases end at the (fractional) steps pct_start * total - 1 and total - 1.
double one_cycle(const OneCycle& o, int64_t step, double first, double peak, double last) {
  const double end = static_cast<double>(o.total_steps - 1), top = o.pct_start * static_cast<double>(o.total_steps) - 1;
  const double t = std::min(static_cast<double>(step), end);
  if (t <= top) return between(o.anneal, first, peak, top > 0 ? t / top : 1);
  return between(o.anneal, peak, last, end > top ? (t - top) / (end - top) : 1);
}

}  // namespace

void check_rate(const char* who, const char* what, double rate, Loc loc) {
  if (!(rate >= 0) || std::isinf(rate)) fail<ValueError>(loc, "{}: expected {} of 0 or more, got {}", who, what, rate);
}
void check_steps(const char* who, int64_t steps, Loc loc) {
  if (steps < 1) fail<ValueError>(loc, "{}: expected 1 step or more, got {}", who, steps);
}

void ConstantLR::check(Loc loc) const {
  check_rate("ConstantLR", "lr", lr, loc);
  check_rate("ConstantLR", "factor", factor, loc);
  if (steps < 0) fail<ValueError>(loc, "ConstantLR: expected 0 steps or more, got {}", steps);
}

double CosineAnnealing::at(int64_t step) const {
  const double part = static_cast<double>(std::min(step, steps)) / static_cast<double>(steps);
  return eta_min + (lr - eta_min) * (1 + std::cos(std::numbers::pi * part)) / 2;
}
void CosineAnnealing::check(Loc loc) const {
  check_rate("CosineAnnealing", "lr", lr, loc);
  check_rate("CosineAnnealing", "eta_min", eta_min, loc);
  check_steps("CosineAnnealing", steps, loc);
}

double OneCycle::at(int64_t step) const {
  const double first = max_lr / div_factor;
  return one_cycle(*this, step, first, max_lr, first / final_div_factor);
}
std::optional<double> OneCycle::momentum_at(int64_t step) const {
  if (!cycle_momentum) return std::nullopt;
  return one_cycle(*this, step, max_momentum, base_momentum, max_momentum);
}
void OneCycle::check(Loc loc) const {
  check_rate("OneCycle", "max_lr", max_lr, loc);
  check_steps("OneCycle", total_steps, loc);
  if (!(pct_start >= 0 && pct_start <= 1))
    fail<ValueError>(loc, "OneCycle: expected pct_start in [0, 1], got {}", pct_start);
  if (!(div_factor > 0) || !(final_div_factor > 0))
    fail<ValueError>(loc, "OneCycle: expected factors above 0, got div_factor {} and final_div_factor {}", div_factor,
                     final_div_factor);
  if (!(base_momentum >= 0 && max_momentum >= base_momentum && max_momentum < 1))
    fail<ValueError>(loc, "OneCycle: expected 0 <= base_momentum <= max_momentum < 1, got {} and {}", base_momentum,
                     max_momentum);
}

double LinearWarmup::at(int64_t step) const {
  if (step >= steps) return then.at(step - steps);
  return then.at(0) * (start_factor + (1 - start_factor) * static_cast<double>(step) / static_cast<double>(steps));
}
std::optional<double> LinearWarmup::momentum_at(int64_t step) const {
  return then.momentum_at(std::max<int64_t>(step - steps, 0));
}
void LinearWarmup::check(Loc loc) const {
  check_steps("LinearWarmup", steps, loc);
  check_rate("LinearWarmup", "start_factor", start_factor, loc);
  if (!then.defined()) fail<ValueError>(loc, "LinearWarmup: expected a schedule in `then`, got none");
}

}  // namespace flame::optim
