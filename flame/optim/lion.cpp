// Lion as a rule.
#include "flame/optim/lion.h"

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::vector<Moment> moments(const Hyper&, const Shape&) { return {{"exp_avg"}}; }
UpdateFn kernel(const Hyper&, DType compute) { return Kernels::best().lion[kernel_index(compute)]; }
void prepare(const Hyper& h, int64_t, UpdateArguments& a) {
  prepare_common(h, a);
  a[3] = h.lr;
  a[4] = h.beta1;
  a[5] = 1 - h.beta1;
  a[6] = h.beta2;
  a[7] = 1 - h.beta2;
}

}  // namespace

template <>
struct Algorithm<LionOptions> {
  static constexpr Rule rule{"Lion", moments, kernel, prepare, check_adam};
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
