// Adagrad as a rule.
#include "flame/optim/adagrad.h"

#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

// extra: lr_decay and the sum's start.
std::vector<Moment> moments(const Hyper& h, const Shape&) { return {{"sum", {}, h.extra[1]}}; }
UpdateFn kernel(const Hyper&, DType compute) { return Kernels::best().adagrad[kernel_index(compute)]; }
void prepare(const Hyper& h, int64_t step, UpdateArguments& a) {
  prepare_common(h, a);
  a[3] = h.lr / (1 + static_cast<double>(step - 1) * h.extra[0]);
  a[4] = h.eps;
}
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
  static constexpr Rule rule{"Adagrad", moments, kernel, prepare, check};
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
