// The formulas of the decays and cycles, in PyTorch's closed forms.
#include "flame/optim/schedules.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numbers>

#include "flame/core/format.h"
#include "flame/optim/schedule_internal.h"

namespace flame::optim {

void LambdaLR::check(Loc loc) const {
  check_rate("LambdaLR", "lr", lr, loc);
  if (!factor) fail<ValueError>(loc, "LambdaLR: expected a function in `factor`, got none");
}

struct MultiplicativeLR::Products {
  std::function<double(int64_t)> factor;
  std::mutex mutex;
  std::vector<double> rates;  // by step
};
MultiplicativeLR::MultiplicativeLR(double lr, std::function<double(int64_t)> factor)
    : products_(std::make_shared<Products>()) {
  products_->factor = std::move(factor);
  products_->rates.push_back(lr);
}
double MultiplicativeLR::at(int64_t step) const {
  Products& p = *products_;
  std::lock_guard lock(p.mutex);
  while (static_cast<int64_t>(p.rates.size()) <= step)
    p.rates.push_back(p.rates.back() * p.factor(static_cast<int64_t>(p.rates.size())));
  return p.rates[static_cast<size_t>(step)];
}
void MultiplicativeLR::check(Loc loc) const {
  check_rate("MultiplicativeLR", "lr", products_->rates[0], loc);
  if (!products_->factor) fail<ValueError>(loc, "MultiplicativeLR: expected a function as factor, got none");
}

double StepLR::at(int64_t step) const { return lr * std::pow(gamma, static_cast<double>(step / step_size)); }
void StepLR::check(Loc loc) const {
  check_rate("StepLR", "lr", lr, loc);
  check_rate("StepLR", "gamma", gamma, loc);
  if (step_size < 1) fail<ValueError>(loc, "StepLR: expected step_size of 1 or more, got {}", step_size);
}

double MultiStepLR::at(int64_t step) const {
  const auto reached = std::upper_bound(milestones.begin(), milestones.end(), step) - milestones.begin();
  return lr * std::pow(gamma, static_cast<double>(reached));
}
void MultiStepLR::check(Loc loc) const {
  check_rate("MultiStepLR", "lr", lr, loc);
  check_rate("MultiStepLR", "gamma", gamma, loc);
  if (!std::is_sorted(milestones.begin(), milestones.end()))
    fail<ValueError>(loc, "MultiStepLR: expected milestones in order, got [{}]", fmt::join(milestones, ", "));
}

double LinearLR::at(int64_t step) const {
  const double part = static_cast<double>(std::min(step, steps)) / static_cast<double>(steps);
  return lr * (start_factor + (end_factor - start_factor) * part);
}
void LinearLR::check(Loc loc) const {
  check_rate("LinearLR", "lr", lr, loc);
  check_rate("LinearLR", "start_factor", start_factor, loc);
  check_rate("LinearLR", "end_factor", end_factor, loc);
  check_steps("LinearLR", steps, loc);
}

double ExponentialLR::at(int64_t step) const { return lr * std::pow(gamma, static_cast<double>(step)); }
void ExponentialLR::check(Loc loc) const {
  check_rate("ExponentialLR", "lr", lr, loc);
  check_rate("ExponentialLR", "gamma", gamma, loc);
}

double PolynomialLR::at(int64_t step) const {
  return lr * std::pow(1 - static_cast<double>(std::min(step, steps)) / static_cast<double>(steps), power);
}
void PolynomialLR::check(Loc loc) const {
  check_rate("PolynomialLR", "lr", lr, loc);
  check_rate("PolynomialLR", "power", power, loc);
  check_steps("PolynomialLR", steps, loc);
}

double CosineAnnealingWarmRestarts::at(int64_t step) const {
  int64_t span = first_steps;
  if (factor == 1) step %= span;
  for (; step >= span; span *= factor) step -= span;
  const double part = static_cast<double>(step) / static_cast<double>(span);
  return eta_min + (lr - eta_min) * (1 + std::cos(std::numbers::pi * part)) / 2;
}
void CosineAnnealingWarmRestarts::check(Loc loc) const {
  check_rate("CosineAnnealingWarmRestarts", "lr", lr, loc);
  check_rate("CosineAnnealingWarmRestarts", "eta_min", eta_min, loc);
  check_steps("CosineAnnealingWarmRestarts", first_steps, loc);
  if (factor < 1) fail<ValueError>(loc, "CosineAnnealingWarmRestarts: expected a factor of 1 or more, got {}", factor);
}

// From 0 to 1 and back, scaled.
double CyclicLR::height(int64_t step) const {
  const int64_t total = steps_up + steps_down.value_or(steps_up), cycle = 1 + step / total, place = step % total;
  const double part = place <= steps_up ? static_cast<double>(place) / static_cast<double>(steps_up)
                                        : static_cast<double>(total - place) / static_cast<double>(total - steps_up);
  if (scale) return part * scale(scale_by_step ? step : cycle);
  switch (mode) {
    case CycleMode::triangular: return part;
    case CycleMode::triangular2: return part * std::exp2(-static_cast<double>(cycle - 1));
    case CycleMode::exp_range: return part * std::pow(gamma, static_cast<double>(step));
  }
  return part;
}
double CyclicLR::at(int64_t step) const { return base_lr + (max_lr - base_lr) * height(step); }
std::optional<double> CyclicLR::momentum_at(int64_t step) const {
  if (!cycle_momentum) return std::nullopt;
  return max_momentum - (max_momentum - base_momentum) * height(step);
}
void CyclicLR::check(Loc loc) const {
  check_rate("CyclicLR", "base_lr", base_lr, loc);
  check_rate("CyclicLR", "max_lr", max_lr, loc);
  check_steps("CyclicLR", steps_up, loc);
  check_steps("CyclicLR", steps_down.value_or(1), loc);
  check_rate("CyclicLR", "gamma", gamma, loc);
  if (!(base_momentum >= 0 && max_momentum >= base_momentum && max_momentum < 1))
    fail<ValueError>(loc, "CyclicLR: expected 0 <= base_momentum <= max_momentum < 1, got {} and {}", base_momentum,
                     max_momentum);
}

double ChainedScheduler::at(int64_t step) const {
  double rate = lr;
  for (const Schedule& s : factors) rate *= s.at(step);
  return rate;
}
std::optional<double> ChainedScheduler::momentum_at(int64_t step) const {
  for (const Schedule& s : factors)
    if (const auto momentum = s.momentum_at(step)) return momentum;
  return std::nullopt;
}
void ChainedScheduler::check(Loc loc) const {
  check_rate("ChainedScheduler", "lr", lr, loc);
  if (factors.empty()) fail<ValueError>(loc, "ChainedScheduler: expected one schedule or more, got none");
  for (const Schedule& s : factors)
    if (!s.defined()) fail<ValueError>(loc, "ChainedScheduler: expected defined schedules, got an undefined one");
}

namespace {
// The schedule that runs at a step, and its own step.
std::pair<const Schedule*, int64_t> running(const SequentialLR& s, int64_t step) {
  const auto i = std::upper_bound(s.milestones.begin(), s.milestones.end(), step) - s.milestones.begin();
  return {&s.schedules[static_cast<size_t>(i)], i == 0 ? step : step - s.milestones[static_cast<size_t>(i - 1)]};
}
}  // namespace
double SequentialLR::at(int64_t step) const {
  const auto [schedule, own] = running(*this, step);
  return schedule->at(own);
}
std::optional<double> SequentialLR::momentum_at(int64_t step) const {
  const auto [schedule, own] = running(*this, step);
  return schedule->momentum_at(own);
}
void SequentialLR::check(Loc loc) const {
  if (schedules.empty() || milestones.size() + 1 != schedules.size())
    fail<ValueError>(loc, "SequentialLR: expected one milestone fewer than schedules, got {} and {}", milestones.size(),
                     schedules.size());
  for (const Schedule& s : schedules)
    if (!s.defined()) fail<ValueError>(loc, "SequentialLR: expected defined schedules, got an undefined one");
  if (std::adjacent_find(milestones.begin(), milestones.end(), std::greater_equal<>()) != milestones.end())
    fail<ValueError>(loc, "SequentialLR: expected rising milestones, got [{}]", fmt::join(milestones, ", "));
}

}  // namespace flame::optim
