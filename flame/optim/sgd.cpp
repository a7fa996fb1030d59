// SGD as a rule. A group without momentum keeps no buffers and runs a kernel of its own.
#include "flame/optim/sgd.h"

#include "flame/core/format.h"
#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::vector<Moment> moments(const Hyper& h, const Shape&) {
  if (h.beta1 == 0) return {};
  return {{"momentum_buffer"}};
}
UpdateFn kernel(const Hyper& h, DType compute) {
  const Kernels& k = Kernels::best();
  return (h.beta1 == 0 ? k.sgd : k.sgd_momentum)[kernel_index(compute)];
}

void check(const char* name, const Hyper& h, Loc loc) {
  check_number(name, "lr", h.lr, loc);
  check_number(name, "momentum", h.beta1, loc);
  check_number(name, "weight_decay", h.weight_decay, loc);
  if (h.has(flag::nesterov) && (h.beta1 <= 0 || h.beta2 != 0))
    fail<ValueError>(loc, "SGD: nesterov expected momentum above 0 and no dampening, got momentum {} and dampening {}",
                     h.beta1, h.beta2);
}

}  // namespace

template <>
struct Algorithm<SGDOptions> {
  static constexpr Rule rule{"SGD", moments, kernel, {"sgd", numbers::sgd}, check};
  static Hyper hyper(const SGDOptions& o) {
    return {.lr = o.lr,
            .weight_decay = o.weight_decay,
            .beta1 = o.momentum,
            .beta2 = o.dampening,
            .flags = flags({{o.maximize, flag::maximize}, {o.nesterov, flag::nesterov}})};
  }
};
template class OptimizerOf<SGDOptions>;

}  // namespace flame::optim
