// SGD as a rule. A group without momentum keeps no buffers and runs a kernel of its own.
#include "flame/optim/sgd.h"

#include "flame/core/format.h"
#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

int moments(const Hyper& h) { return h.beta1 != 0 ? 1 : 0; }
UpdateFn kernel(const Hyper& h, DType compute) {
  const Kernels& k = Kernels::best();
  return (moments(h) ? k.sgd_momentum : k.sgd)[kernel_index(compute)];
}

void prepare(const Hyper& h, int64_t step, UpdateArguments& a) {
  const bool first = step == 1, nesterov = h.flag != 0;
  a = {h.weight_decay,        h.lr, first ? 0 : h.beta1, first ? 1 : 1 - h.beta2, nesterov ? 1.0 : 0.0,
       nesterov ? h.beta1 : 1};
}

void check(const Hyper& h, Loc loc) {
  if (!(h.lr >= 0)) fail<ValueError>(loc, "SGD: expected lr of 0 or more, got {}", h.lr);
  if (!(h.beta1 >= 0)) fail<ValueError>(loc, "SGD: expected momentum of 0 or more, got {}", h.beta1);
  if (!(h.weight_decay >= 0)) fail<ValueError>(loc, "SGD: expected weight_decay of 0 or more, got {}", h.weight_decay);
  if (h.flag != 0 && (h.beta1 <= 0 || h.beta2 != 0))
    fail<ValueError>(loc, "SGD: nesterov expected momentum above 0 and no dampening, got momentum {} and dampening {}",
                     h.beta1, h.beta2);
}

constexpr Rule rule{"SGD", {"momentum_buffer", ""}, moments, kernel, prepare, check};

std::vector<ParameterGroup<Hyper>> hypers(const std::vector<SGD::Group>& groups) {
  std::vector<ParameterGroup<Hyper>> out;
  out.reserve(groups.size());
  for (const auto& [parameters, o] : groups)
    out.push_back({parameters, {o.lr, o.weight_decay, o.momentum, o.dampening, 0, o.nesterov ? 1.0 : 0.0}});
  return out;
}

}  // namespace

SGD::SGD(const std::vector<Group>& groups, Loc loc) : Optimizer(rule, hypers(groups), loc) {}
SGD::SGD(std::vector<Parameter> parameters, const Options& o, Loc loc)
    : SGD(std::vector<Group>{{std::move(parameters), o}}, loc) {}

}  // namespace flame::optim
