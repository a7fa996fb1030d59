// Lion as a rule.
#include "flame/optim/lion.h"

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::vector<Moment> moments(const Hyper&, const Shape&) { return {{"exp_avg"}}; }
UpdateFn kernel(const Hyper&, DType compute) { return Kernels::best().lion[kernel_index(compute)]; }
}  // namespace

template <>
struct Algorithm<LionOptions> {
  static constexpr Rule rule{"Lion", moments, kernel, {"lion", numbers::lion}, check_adam};
  static Hyper hyper(const LionOptions& o) {
    return {.lr = o.lr,
            .weight_decay = o.weight_decay,
            .beta1 = o.betas[0],
            .beta2 = o.betas[1],
            .flags = flags({{o.maximize, flag::maximize}, {true, flag::decoupled}})};
  }
};
template class OptimizerOf<LionOptions>;

}  // namespace flame::optim
