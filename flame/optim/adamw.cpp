// Adam and AdamW as rules: the numbers of a step, computed in float64 on the host.
#include "flame/optim/adamw.h"

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::vector<Moment> moments(const Hyper& h, const Shape&) {
  std::vector<Moment> out{{"exp_avg"}, {"exp_avg_sq"}};
  if (h.has(flag::amsgrad)) out.push_back({"max_exp_avg_sq"});
  return out;
}
UpdateFn kernel(const Hyper& h, DType compute) {
  const Kernels& k = Kernels::best();
  return (h.has(flag::amsgrad) ? k.amsgrad : k.adam)[kernel_index(compute)];
}
Hyper hyper_of(const auto& o, bool decoupled) {
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
  static constexpr Rule rule{"AdamW", moments, kernel, {"adam", numbers::adam}, check_adam};
  static Hyper hyper(const AdamWOptions& o) { return hyper_of(o, true); }
};
template <>
struct Algorithm<AdamOptions> {
  static constexpr Rule rule{"Adam", moments, kernel, {"adam", numbers::adam}, check_adam};
  static Hyper hyper(const AdamOptions& o) { return hyper_of(o, false); }
};
template class OptimizerOf<AdamWOptions>;
template class OptimizerOf<AdamOptions>;

}  // namespace flame::optim
