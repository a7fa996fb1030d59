// Adamax as a rule.
#include "flame/optim/adamax.h"

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::vector<Moment> moments(const Hyper&, const Shape&) { return {{"exp_avg"}, {"exp_inf"}}; }
UpdateFn kernel(const Hyper&, DType compute) { return Kernels::best().adamax[kernel_index(compute)]; }
}  // namespace

template <>
struct Algorithm<AdamaxOptions> {
  static constexpr Rule rule{"Adamax", moments, kernel, {"adamax", numbers::adamax}, check_adam};
  static Hyper hyper(const AdamaxOptions& o) {
    return {.lr = o.lr,
            .weight_decay = o.weight_decay,
            .beta1 = o.betas[0],
            .beta2 = o.betas[1],
            .eps = o.eps,
            .flags = flags({{o.maximize, flag::maximize}})};
  }
};
template class OptimizerOf<AdamaxOptions>;

}  // namespace flame::optim
