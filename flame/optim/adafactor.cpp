// Adafactor as a rule; its launch is in adafactor_plan.cpp.
#include "flame/optim/adafactor.h"

#include <cmath>

#include "flame/core/format.h"
#include "flame/optim/adafactor_internal.h"
#include "flame/optim/optimizer_internal.h"

namespace flame::optim {
namespace {

std::vector<Moment> moments(const Hyper&, const Shape& s) {
  if (s.rank() < 2) return {{"variance"}};
  Shape row = s, column = s;
  row[s.rank() - 1] = 1;
  column[s.rank() - 2] = 1;
  return {{"row_var", row}, {"col_var", column}};
}
UpdateFn no_kernel(const Hyper&, DType) { return nullptr; }
void check(const char* name, const Hyper& h, Loc loc) {
  check_number(name, "lr", h.lr, loc);
  check_number(name, "weight_decay", h.weight_decay, loc);
  if (!(h.beta2 <= 0)) fail<ValueError>(loc, "{}: expected beta2_decay of 0 or less, got {}", name, h.beta2);
  if (!std::isnan(h.eps)) check_number(name, "eps1", h.eps, loc);
  check_number(name, "eps2", h.extra[0], loc);
  if (!(h.extra[1] >= 1)) fail<ValueError>(loc, "{}: expected d of 1 or more, got {}", name, h.extra[1]);
}

}  // namespace

template <>
struct Algorithm<AdafactorOptions> {
  static constexpr Rule rule{"Adafactor", moments, no_kernel, {"adafactor", numbers::adafactor}, check, adafactor_plan};
  static Hyper hyper(const AdafactorOptions& o) {
    return {.lr = o.lr,
            .weight_decay = o.weight_decay,
            .beta2 = o.beta2_decay,
            .eps = o.eps1.value_or(NAN),
            .extra = {o.eps2, o.d},
            .flags = flags({{o.maximize, flag::maximize},
                            {true, flag::decoupled},
                            {o.relative_step, flag::relative_step},
                            {o.scale_parameter, flag::scale_parameter}})};
  }
};
template class OptimizerOf<AdafactorOptions>;

}  // namespace flame::optim
