// Each number is copied into a cell of its own, since what a recorded step returns is overwritten by the next call.
#include "flame/train/late_value.h"

#include "flame/core/format.h"

namespace flame::train {

std::optional<double> LateValue::push(const Tensor& value, Loc loc) {
  if (value.numel() != 1) fail<ShapeError>(loc, "LateValue: expected one element, got shape {}", value.shape());
  const int place = 1 - last_;
  State& cell = kept_[place];
  const bool fits = cell.defined() && cell.shape() == value.shape() && cell.dtype() == value.dtype() &&
                    &cell.device() == &value.device();
  if (fits) cell.assign(value.detach(), loc);
  else cell = State(value.detach(), loc);
  const std::optional<double> before = take(loc);
  last_ = place;
  full_ = true;
  return before;
}

std::optional<double> LateValue::take(Loc loc) {
  if (!full_) return {};
  full_ = false;
  return kept_[last_].tensor().item(loc);
}

}  // namespace flame::train
