// Adam and AdamW as rules: the numbers of a step, computed in float64 on the host.
#include "flame/optim/adamw.h"

#include <cmath>

#include "flame/core/format.h"
#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

void prepare(const Hyper& h, int64_t step, UpdateArguments& a) {
  const double n = static_cast<double>(step);
  const bool decoupled = h.flag != 0;
  a = {decoupled ? 1 - h.lr * h.weight_decay : 1,
       decoupled ? 0 : h.weight_decay,
       1 - h.beta1,
       h.beta2,
       1 - h.beta2,
       std::sqrt(1 - std::pow(h.beta2, n)),
       h.eps,
       h.lr / (1 - std::pow(h.beta1, n))};
}

void check(const Hyper& h, Loc loc) {
  const char* name = h.flag != 0 ? "AdamW" : "Adam";
  if (!(h.lr >= 0)) fail<ValueError>(loc, "{}: expected lr of 0 or more, got {}", name, h.lr);
  if (!(h.beta1 >= 0 && h.beta1 < 1) || !(h.beta2 >= 0 && h.beta2 < 1))
    fail<ValueError>(loc, "{}: expected betas in [0, 1), got {} and {}", name, h.beta1, h.beta2);
  if (!(h.eps >= 0)) fail<ValueError>(loc, "{}: expected eps of 0 or more, got {}", name, h.eps);
  if (!(h.weight_decay >= 0))
    fail<ValueError>(loc, "{}: expected weight_decay of 0 or more, got {}", name, h.weight_decay);
}

constexpr int two(const Hyper&) { return 2; }
UpdateFn kernel(const Hyper&, DType compute) { return Kernels::best().adam[kernel_index(compute)]; }
constexpr Rule adamw_rule{"AdamW", {"exp_avg", "exp_avg_sq"}, two, kernel, prepare, check};
constexpr Rule adam_rule{"Adam", {"exp_avg", "exp_avg_sq"}, two, kernel, prepare, check};

template <class Options>
std::vector<ParameterGroup<Hyper>> hypers(const std::vector<ParameterGroup<Options>>& groups, bool decoupled) {
  std::vector<ParameterGroup<Hyper>> out;
  out.reserve(groups.size());
  for (const auto& [parameters, o] : groups)
    out.push_back({parameters, {o.lr, o.weight_decay, o.betas[0], o.betas[1], o.eps, decoupled ? 1.0 : 0.0}});
  return out;
}

}  // namespace

AdamW::AdamW(const std::vector<Group>& groups, Loc loc) : Optimizer(adamw_rule, hypers(groups, true), loc) {}
AdamW::AdamW(std::vector<Parameter> parameters, const Options& o, Loc loc)
    : AdamW(std::vector<Group>{{std::move(parameters), o}}, loc) {}
Adam::Adam(const std::vector<Group>& groups, Loc loc) : Optimizer(adam_rule, hypers(groups, false), loc) {}
Adam::Adam(std::vector<Parameter> parameters, const Options& o, Loc loc)
    : Adam(std::vector<Group>{{std::move(parameters), o}}, loc) {}

}  // namespace flame::optim
