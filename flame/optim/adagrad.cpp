// Adagrad as a rule.
#include "flame/optim/adagrad.h"

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::vector<Moment> moments(const Hyper& h, const Shape&) { return {{"sum", {}, h.extra[1]}}; }
UpdateFn kernel(const Hyper&, DType compute) { return Kernels::best().adagrad[kernel_index(compute)]; }
void check(const char* name, const Hyper& h, Loc loc) {
  check_number(name, "lr", h.lr, loc);
  check_number(name, "lr_decay", h.extra[0], loc);
  check_number(name, "weight_decay", h.weight_decay, loc);
  check_number(name, "initial_accumulator_value", h.extra[1], loc);
  check_number(name, "eps", h.eps, loc);
}

}  // namespace

template <>
struct Algorithm<AdagradOptions> {
  static constexpr Rule rule{"Adagrad", moments, kernel, {"adagrad", numbers::adagrad}, check};
  static Hyper hyper(const AdagradOptions& o) {
    return {.lr = o.lr,
            .weight_decay = o.weight_decay,
            .eps = o.eps,
            .extra = {o.lr_decay, o.initial_accumulator_value},
            .flags = flags({{o.maximize, flag::maximize}})};
  }
};
template class OptimizerOf<AdagradOptions>;

}  // namespace flame::optim
