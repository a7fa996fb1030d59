// NAdam as a rule. With a constant beta1 the product of all momenta so far is a function of the step, so it is no state.
#include "flame/optim/nadam.h"

#include <cmath>

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

double momentum(const Hyper& h, int64_t step) {
  return h.beta1 * (1 - 0.5 * std::pow(0.96, static_cast<double>(step) * h.extra[0]));
}
// Of the first `steps` momenta. Below 1e-20, 1 minus it is 1.
double momentum_product(const Hyper& h, int64_t steps) {
  double product = 1;
  for (int64_t i = 1; i <= steps && product > 1e-20; ++i) product *= momentum(h, i);
  return product;
}

std::vector<Moment> moments(const Hyper&, const Shape&) { return {{"exp_avg"}, {"exp_avg_sq"}}; }
UpdateFn kernel(const Hyper&, DType compute) { return Kernels::best().nadam[kernel_index(compute)]; }
void prepare(const Hyper& h, int64_t step, UpdateArguments& a) {
  const double product = momentum_product(h, step), next = momentum(h, step + 1);
  prepare_common(h, a);
  a[3] = 1 - h.beta1;
  a[4] = h.beta2;
  a[5] = 1 - h.beta2;
  a[6] = 1 - std::pow(h.beta2, static_cast<double>(step));
  a[7] = h.eps;
  a[8] = h.lr * (1 - momentum(h, step)) / (1 - product);
  a[9] = h.lr * next / (1 - product * next);
}
void check(const char* name, const Hyper& h, Loc loc) {
  check_adam(name, h, loc);
  check_number(name, "momentum_decay", h.extra[0], loc);
}

}  // namespace

template <>
struct Algorithm<NAdamOptions> {
  static constexpr Rule rule{"NAdam", moments, kernel, prepare, check};
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
