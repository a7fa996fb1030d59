// The rule of torch.optim.lr_scheduler.ReduceLROnPlateau.
#include "flame/optim/plateau.h"

#include <algorithm>
#include <limits>

#include "flame/core/format.h"

namespace flame::optim {

ReduceLROnPlateau::ReduceLROnPlateau(Optimizer& optimizer, const PlateauOptions& o, Loc loc)
    : optimizer_(&optimizer), o_(o) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  if (!(o.factor >= 0 && o.factor < 1))
    fail<ValueError>(loc, "ReduceLROnPlateau: expected a factor in [0, 1), got {}", o.factor);
  if (o.patience < 0 || o.cooldown < 0)
    fail<ValueError>(loc, "ReduceLROnPlateau: expected patience and cooldown of 0 or more, got {} and {}", o.patience,
                     o.cooldown);
  if (!(o.threshold >= 0))
    fail<ValueError>(loc, "ReduceLROnPlateau: expected a threshold of 0 or more, got {}", o.threshold);
  if (o.min_lr.size() != 1 && o.min_lr.size() != optimizer.groups())
    fail<ValueError>(loc, "ReduceLROnPlateau: expected 1 or {} min_lr, got {}", optimizer.groups(), o.min_lr.size());
  best_ = o.better == Better::lower ? inf : -inf;
}

bool ReduceLROnPlateau::progress(double metric) const {
  const double sign = o_.better == Better::lower ? -1 : 1;
  const double bar =
      o_.threshold_mode == Threshold::relative ? best_ * (1 + sign * o_.threshold) : best_ + sign * o_.threshold;
  return o_.better == Better::lower ? metric < bar : metric > bar;
}

void ReduceLROnPlateau::step(double metric, Loc loc) {
  if (progress(metric)) {
    best_ = metric;
    bad_ = 0;
  } else {
    ++bad_;
  }
  if (cooldown_ > 0) {
    --cooldown_;
    bad_ = 0;
  }
  if (bad_ <= o_.patience) return;
  for (size_t g = 0; g < optimizer_->groups(); ++g) {
    const double before = optimizer_->lr(g, loc), least = o_.min_lr[o_.min_lr.size() == 1 ? 0 : g];
    const double after = std::max(before * o_.factor, least);
    if (before - after > o_.eps) optimizer_->set_lr(g, after, loc);
  }
  cooldown_ = o_.cooldown;
  bad_ = 0;
}

std::vector<std::pair<std::string, Tensor>> ReduceLROnPlateau::state_dict() const {
  const std::vector<double> numbers{best_, static_cast<double>(bad_), static_cast<double>(cooldown_)};
  return {{"plateau", Tensor::from(numbers, {3}, cpu())}};
}

void ReduceLROnPlateau::load_state(const std::vector<std::pair<std::string, Tensor>>& entries, Loc loc) {
  if (entries.size() != 1 || entries[0].first != "plateau")
    fail<ValueError>(loc, "ReduceLROnPlateau: load_state expected the entry 'plateau' alone, got {} entries",
                     entries.size());
  const Tensor& t = entries[0].second;
  if (t.shape() != Shape{3})
    fail<ShapeError>(loc, "ReduceLROnPlateau: load_state expected 'plateau' of shape [3], got {}", t.shape());
  if (t.dtype() != DType::f64)
    fail<DTypeError>(loc, "ReduceLROnPlateau: load_state expected 'plateau' of float64, got {}", t.dtype());
  const std::vector<double> v = t.to_vector<double>(loc);
  if (!(v[1] >= 0 && v[1] < 0x1p53) || !(v[2] >= 0 && v[2] < 0x1p53))
    fail<ValueError>(loc, "ReduceLROnPlateau: load_state expected counts of 0 or more, got {} and {}", v[1], v[2]);
  best_ = v[0];
  bad_ = static_cast<int64_t>(v[1]);
  cooldown_ = static_cast<int64_t>(v[2]);
}

}  // namespace flame::optim
