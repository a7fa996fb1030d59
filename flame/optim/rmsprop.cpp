// RMSprop as a rule: one kernel for each pair of centered and momentum, with the state that it needs.
#include "flame/optim/rmsprop.h"

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::vector<Moment> moments(const Hyper& h, const Shape&) {
  std::vector<Moment> out{{"square_avg"}};
  if (h.beta1 != 0) out.push_back({"momentum_buffer"});
  if (h.has(flag::centered)) out.push_back({"grad_avg"});
  return out;
}
UpdateFn kernel(const Hyper& h, DType compute) {
  return Kernels::best().rmsprop[kernel_index(compute)][(h.beta1 != 0 ? 1 : 0) + (h.has(flag::centered) ? 2 : 0)];
}
void check(const char* name, const Hyper& h, Loc loc) {
  check_number(name, "lr", h.lr, loc);
  check_number(name, "eps", h.eps, loc);
  check_number(name, "momentum", h.beta1, loc);
  check_number(name, "weight_decay", h.weight_decay, loc);
  check_number(name, "alpha", h.beta2, loc);
}

}  // namespace

template <>
struct Algorithm<RMSpropOptions> {
  static constexpr Rule rule{"RMSprop", moments, kernel, {"rmsprop", numbers::rmsprop}, check};
  static Hyper hyper(const RMSpropOptions& o) {
    return {.lr = o.lr,
            .weight_decay = o.weight_decay,
            .beta1 = o.momentum,
            .beta2 = o.alpha,
            .eps = o.eps,
            .flags = flags({{o.maximize, flag::maximize}, {o.centered, flag::centered}})};
  }
};
template class OptimizerOf<RMSpropOptions>;

}  // namespace flame::optim
