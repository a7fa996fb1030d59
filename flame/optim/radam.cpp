// RAdam as a rule: the rectification is a number of the step.
#include "flame/optim/radam.h"

#include <cmath>

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::vector<Moment> moments(const Hyper&, const Shape&) { return {{"exp_avg"}, {"exp_avg_sq"}}; }
UpdateFn kernel(const Hyper&, DType compute) { return Kernels::best().radam[kernel_index(compute)]; }
void prepare(const Hyper& h, int64_t step, UpdateArguments& a) {
  const double n = static_cast<double>(step), power = std::pow(h.beta2, n), correction = 1 - power;
  const double longest = 2 / (1 - h.beta2) - 1;  // rho_inf: how many gradients the second moment averages in the end
  const double length = longest - 2 * n * power / correction;  // rho_t: and now
  prepare_common(h, a);
  a[3] = 1 - h.beta1;
  a[4] = h.beta2;
  a[5] = 1 - h.beta2;
  a[6] = length > 5 ? std::sqrt(correction) *
                          std::sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
                    : 0;
  a[7] = h.eps;
  a[8] = h.lr / (1 - std::pow(h.beta1, n));
}

}  // namespace

template <>
struct Algorithm<RAdamOptions> {
  static constexpr Rule rule{"RAdam", moments, kernel, prepare, check_adam};
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
