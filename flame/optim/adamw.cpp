// Adam and AdamW as rules: the numbers of a step, computed in float64 on the host.
#include "flame/optim/adamw.h"

#include <cmath>

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

void prepare(const Hyper& h, int64_t step, UpdateArguments& a) {
  const double n = static_cast<double>(step);
  prepare_common(h, a);
  a[3] = 1 - h.beta1;
  a[4] = h.beta2;
  a[5] = 1 - h.beta2;
  a[6] = std::sqrt(1 - std::pow(h.beta2, n));
  a[7] = h.eps;
  a[8] = h.lr / (1 - std::pow(h.beta1, n));
}

std::vector<Moment> moments(const Hyper& h, const Shape&) {
  std::vector<Moment> out{{"exp_avg"}, {"exp_avg_sq"}};
  if (h.has(flag::amsgrad)) out.push_back({"max_exp_avg_sq"});
  return out;
}
UpdateFn kernel(const Hyper& h, DType compute) {
  const Kernels& k = Kernels::best();
  return (h.has(flag::amsgrad) ? k.amsgrad : k.adam)[kernel_index(compute)];
}
Hyper numbers(const auto& o, bool decoupled) {
  return {.lr = o.lr,
          .weight_decay = o.weight_decay,
          .beta1 = o.betas[0],
          .beta2 = o.betas[1],
          .eps = o.eps,
          .flags = flags({{o.maximize, flag::maximize}, {decoupled, flag::decoupled}, {o.amsgrad, flag::amsgrad}})};
}

}  // namespace

template <>
struct Algorithm<AdamWOptions> {
  static constexpr Rule rule{"AdamW", moments, kernel, prepare, check_adam};
  static Hyper hyper(const AdamWOptions& o) { return numbers(o, true); }
};
template <>
struct Algorithm<AdamOptions> {
  static constexpr Rule rule{"Adam", moments, kernel, prepare, check_adam};
  static Hyper hyper(const AdamOptions& o) { return numbers(o, false); }
};
template class OptimizerOf<AdamWOptions>;
template class OptimizerOf<AdamOptions>;

}  // namespace flame::optim
