// RAdam as a rule: the rectification is a number of the step.
#include "flame/optim/radam.h"

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::vector<Moment> moments(const Hyper&, const Shape&) { return {{"exp_avg"}, {"exp_avg_sq"}}; }
UpdateFn kernel(const Hyper&, DType compute) { return Kernels::best().radam[kernel_index(compute)]; }
}  // namespace

template <>
struct Algorithm<RAdamOptions> {
  static constexpr Rule rule{"RAdam", moments, kernel, {"radam", numbers::radam}, check_adam};
  static Hyper hyper(const RAdamOptions& o) {
    return {.lr = o.lr,
            .weight_decay = o.weight_decay,
            .beta1 = o.betas[0],
            .beta2 = o.betas[1],
            .eps = o.eps,
            .flags = flags({{o.maximize, flag::maximize}, {o.decoupled_decay, flag::decoupled}})};
  }
};
template class OptimizerOf<RAdamOptions>;

}  // namespace flame::optim
