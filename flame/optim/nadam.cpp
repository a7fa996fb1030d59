// NAdam as a rule.
#include "flame/optim/nadam.h"

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::vector<Moment> moments(const Hyper&, const Shape&) { return {{"exp_avg"}, {"exp_avg_sq"}}; }
UpdateFn kernel(const Hyper&, DType compute) { return Kernels::best().nadam[kernel_index(compute)]; }
void check(const char* name, const Hyper& h, Loc loc) {
  check_adam(name, h, loc);
  check_number(name, "momentum_decay", h.extra[0], loc);
}

}  // namespace

template <>
struct Algorithm<NAdamOptions> {
  static constexpr Rule rule{"NAdam", moments, kernel, {"nadam", numbers::nadam}, check};
  static Hyper hyper(const NAdamOptions& o) {
    return {.lr = o.lr,
            .weight_decay = o.weight_decay,
            .beta1 = o.betas[0],
            .beta2 = o.betas[1],
            .eps = o.eps,
            .extra = {o.momentum_decay, 0},
            .flags = flags({{o.maximize, flag::maximize}, {o.decoupled_decay, flag::decoupled}})};
  }
};
template class OptimizerOf<NAdamOptions>;

}  // namespace flame::optim
