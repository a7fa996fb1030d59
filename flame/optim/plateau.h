// ReduceLROnPlateau: the one schedule that looks at a metric, and so has a state of its own.
#pragma once
#include "flame/optim/optimizer.h"

namespace flame::optim {

enum class Better : uint8_t { lower, higher };
enum class Threshold : uint8_t { relative, absolute };
struct PlateauOptions {
  Better better = Better::lower;
  double factor = 0.1;    // what a rate is multiplied by
  int64_t patience = 10;  // steps without progress that are tolerated
  double threshold = 1e-4;
  Threshold threshold_mode = Threshold::relative;  // progress: metric < best * (1 - threshold), or < best - threshold
  int64_t cooldown = 0;                            // steps after a reduction that are not counted
  std::vector<double> min_lr = {0};                // one for all groups, or one a group
  double eps = 1e-8;                               // smaller reductions are left out
};

// Lowers the rates of an optimizer's groups by set_lr(), which ends their schedules, when the metric no longer gets
// better. The optimizer must outlive it. ValueError for options out of range.
class ReduceLROnPlateau {
 public:
  explicit ReduceLROnPlateau(Optimizer& optimizer, const PlateauOptions& o = {}, Loc loc = Loc::current());
  // After each evaluation. A NaN is no progress.
  void step(double metric, Loc loc = Loc::current());
  double best() const { return best_; }

  // "plateau" (float64): best metric, bad steps, steps of cooldown left. The rates are the optimizer's state.
  std::vector<std::pair<std::string, Tensor>> state_dict() const;
  // ValueError, ShapeError or DTypeError if the entry does not fit; then nothing has changed.
  void load_state(const std::vector<std::pair<std::string, Tensor>>& entries, Loc loc = Loc::current());

 private:
  bool progress(double metric) const;
  Optimizer* optimizer_;
  PlateauOptions o_;
  double best_;
  int64_t bad_ = 0, cooldown_ = 0;
};

}  // namespace flame::optim
