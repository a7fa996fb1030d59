// The scale and the count of good steps are one State of two numbers, moved by tensor ops.
#include "flame/optim/scaler.h"

#include <cmath>

#include "flame/autograd/autograd.h"
#include "flame/core/format.h"
#include "flame/ops/cat.h"
#include "flame/ops/create.h"
#include "flame/ops/pointwise.h"

namespace flame::optim {

GradScaler::GradScaler(const GradScalerOptions& o, Device& d, Loc loc) : options_(o) {
  if (!(o.init_scale > 0) || !std::isfinite(o.init_scale))
    fail<ValueError>(loc, "GradScaler: expected an init_scale above 0, got {}", o.init_scale);
  if (!(o.growth_factor > 1))
    fail<ValueError>(loc, "GradScaler: expected a growth_factor above 1, got {}", o.growth_factor);
  if (!(o.backoff_factor > 0 && o.backoff_factor < 1))
    fail<ValueError>(loc, "GradScaler: expected a backoff_factor between 0 and 1, got {}", o.backoff_factor);
  if (o.growth_interval < 1)
    fail<ValueError>(loc, "GradScaler: expected a growth_interval of 1 or more, got {}", o.growth_interval);
  state_ = State(where(arange(0, 2, 1, DType::f32, d, loc) < 1, o.init_scale, 0.0, loc).to(DType::f32, loc), loc);
}

Tensor GradScaler::scale(const Tensor& loss, Loc loc) const {
  const Tensor by = state_.tensor().detach().select(0, 0, loc);
  return mul(loss.dtype() == DType::f64 ? loss : loss.to(DType::f32, loc), by, loc);
}

void GradScaler::update(Loc loc) {
  if (found_.empty())
    fail<ValueError>(loc, "GradScaler: update() expected an optimizer's step with this scaler before it");
  NoGrad guard;
  Tensor bad = isnan(found_[0], loc);
  for (size_t i = 1; i < found_.size(); ++i) bad = logical_or(bad, isnan(found_[i], loc), loc);
  const Tensor now = state_.tensor(), scale = now.select(0, 0, loc), good = add(now.select(0, 1, loc), 1, loc);
  const Tensor full = eq(good, static_cast<double>(options_.growth_interval), loc);
  const Tensor larger = mul(scale, options_.growth_factor, loc);
  const Tensor grown = where(logical_and(full, isfinite(larger, loc), loc), larger, scale, loc);
  const Tensor next = where(bad, mul(scale, options_.backoff_factor, loc), grown, loc);
  const Tensor count = where(logical_or(bad, full, loc), 0.0, good, loc);
  const Tensor first = lt(arange(0, 2, 1, DType::f32, device(), loc), 1, loc);
  state_.assign(where(first, next, count, loc), loc);
  found_.clear();
}

double GradScaler::value(Loc loc) const { return state_.tensor().detach().select(0, 0, loc).item(loc); }

std::vector<std::pair<std::string, Tensor>> GradScaler::state_dict() const {
  const Tensor now = state_.tensor().detach();
  return {{"scale", now.select(0, 0)}, {"growth_tracker", now.select(0, 1)}};
}

void GradScaler::load_state(const std::vector<std::pair<std::string, Tensor>>& entries, Loc loc) {
  Tensor parts[2];
  const char* const names[] = {"scale", "growth_tracker"};
  for (const auto& [name, t] : entries) {
    const size_t i = name == names[0] ? 0 : 1;
    if (name != names[i]) fail<ValueError>(loc, "GradScaler: load_state expected no entry '{}'", name);
    if (parts[i].defined()) fail<ValueError>(loc, "GradScaler: load_state expected '{}' once, got it twice", name);
    if (t.shape() != Shape{})
      fail<ShapeError>(loc, "GradScaler: load_state expected '{}' of shape [], got {}", name, t.shape());
    if (t.dtype() != DType::f32)
      fail<DTypeError>(loc, "GradScaler: load_state expected '{}' of float32, got {}", name, t.dtype());
    parts[i] = t.detach().to(device(), loc);
  }
  for (size_t i = 0; i < 2; ++i)
    if (!parts[i].defined()) fail<ValueError>(loc, "GradScaler: load_state expected an entry '{}', got none", names[i]);
  if (const double s = parts[0].item(loc); !(s > 0) || !std::isfinite(s))
    fail<ValueError>(loc, "GradScaler: load_state expected a scale above 0, got {}", s);
  state_.assign(stack({parts[0], parts[1]}, 0, loc), loc);
  found_.clear();
}

}  // namespace flame::optim
