// Losses of one prediction an element: each is a value and two derivatives, and the rest is shared.
#include "flame/ops/loss.h"

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/ops/composed_internal.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {

Tensor reduced(const Tensor& x, Reduction r, Loc loc) {
  switch (r) {
    case Reduction::none: return x;
    case Reduction::mean: return mean(x, {}, false, loc);
    case Reduction::sum: return sum(x, {}, false, loc);
    case Reduction::batch_mean:
      return div(sum(x, {}, false, loc), x.rank() > 0 ? static_cast<double>(x.shape()[0]) : 1.0, loc);
  }
  return x;
}

namespace {

// `ones`: the loss's own weight of the target's ones, or undefined.
using Pairwise = std::function<Tensor(const Tensor& x, const Tensor& t, const Tensor& ones)>;
struct ElementLoss {
  AutocastOp name;
  Pairwise value, by_x, by_t;  // in float32 or float64; the derivatives have x's shape
  Reduction reduction;
};
struct Factors {
  Tensor weight = {}, ones = {};  // of an element, and what the functions get; broadcast
};

Tensor evaluate(const ElementLoss& f, const Tensor& x, const Tensor& t, const Factors& factors, Loc loc) {
  check_inputs(f.name, {&x, &t}, {&factors.weight, &factors.ones}, loc);
  check_floating(f.name, x, loc);
  if (x.shape() != t.shape())
    fail<ShapeError>(loc, "{}: expected equal shapes, got {} and {}", f.name, x.shape(), t.shape());
  check_factor(f.name, "weight", factors.weight, x.shape(), loc);
  const DType given = is_float(t.dtype()) ? promote(x.dtype(), t.dtype()) : x.dtype(), wide = compute_dtype_of(given);
  const DType out = promote(given, autocast_result(f.name, x));
  const auto constant = [&](const Tensor& w) { return w.defined() ? w.detach().to(wide, loc) : w; };
  const Tensor weight = constant(factors.weight), ones = constant(factors.ones);
  const Tensor loss = no_grad([&] {
    const Tensor each = f.value(x.to(wide), t.to(wide), ones);
    return reduced(weight.defined() ? each * weight : each, f.reduction, loc).to(out);
  });
  const auto rule = [f, wide](const CustomContext& c) -> std::vector<Tensor> {
    const Tensor x = c.saved[0].to(wide), t = c.saved[1].to(wide);
    const Tensor g = c.grads[0].to(wide);
    const double rows = x.rank() > 0 ? static_cast<double>(x.shape()[0]) : 1.0;
    // A mean's count divides the elements, since a division of g alone would be a launch of its own.
    const auto towards = [&](const Tensor& slope, const Tensor& input) {
      Tensor d = slope * g;
      if (c.saved[2].defined()) d = d * c.saved[2];
      if (f.reduction == Reduction::mean) d = d / static_cast<double>(x.numel());
      if (f.reduction == Reduction::batch_mean) d = d / rows;
      return d.to(input.dtype());
    };
    return {c.needs[0] ? towards(f.by_x(x, t, c.saved[3]), c.saved[0]) : Tensor(),
            c.needs[1] ? towards(f.by_t(x, t, c.saved[3]), c.saved[1]) : Tensor()};
  };
  const Tensor in[] = {x, t};
  return with_rule(f.name, in, {loss}, {x, t, weight, ones}, rule, loc)[0];
}

// A loss of the difference d = x - t.
Tensor of_difference(AutocastOp name, const Tensor& x, const Tensor& t, Reduction r, Loc loc,
                     std::function<Tensor(const Tensor& d)> value, std::function<Tensor(const Tensor& d)> slope) {
  check_reduction(name, r, loc);
  return evaluate({.name = name,
                   .value = [value](const Tensor& x, const Tensor& t, const Tensor&) { return value(x - t); },
                   .by_x = [slope](const Tensor& x, const Tensor& t, const Tensor&) { return slope(x - t); },
                   .by_t = [slope](const Tensor& x, const Tensor& t, const Tensor&) { return -slope(x - t); },
                   .reduction = r},
                  x, t, {}, loc);
}

}  // namespace

Tensor mse_loss(const Tensor& prediction, const Tensor& target, Reduction r, Loc loc) {
  return of_difference(
      "mse_loss", prediction, target, r, loc, [](const Tensor& d) { return square(d); },
      [](const Tensor& d) { return d * 2; });
}
Tensor l1_loss(const Tensor& prediction, const Tensor& target, Reduction r, Loc loc) {
  return of_difference(
      "l1_loss", prediction, target, r, loc, [](const Tensor& d) { return abs(d); },
      [](const Tensor& d) { return sign(d); });
}
Tensor smooth_l1_loss(const Tensor& prediction, const Tensor& target, const SmoothL1Options& o, Loc loc) {
  const double beta = o.beta;
  if (!(beta >= 0)) fail<ValueError>(loc, "smooth_l1_loss: expected a beta of 0 or more, got {}", beta);
  return of_difference(
      "smooth_l1_loss", prediction, target, o.reduction, loc,
      [beta](const Tensor& d) {
        return beta == 0 ? abs(d) : where(abs(d) < beta, square(d) * (0.5 / beta), abs(d) - 0.5 * beta);
      },
      // Without a beta it is the l1 loss: 1 / beta would reach second derivatives.
      [beta](const Tensor& d) { return beta == 0 ? sign(d) : where(abs(d) < beta, d * (1 / beta), sign(d)); });
}
Tensor huber_loss(const Tensor& prediction, const Tensor& target, const HuberOptions& o, Loc loc) {
  const double delta = o.delta;
  if (!(delta > 0)) fail<ValueError>(loc, "huber_loss: expected a delta above 0, got {}", delta);
  return of_difference(
      "huber_loss", prediction, target, o.reduction, loc,
      [delta](const Tensor& d) { return where(abs(d) <= delta, square(d) * 0.5, (abs(d) - 0.5 * delta) * delta); },
      [delta](const Tensor& d) { return where(abs(d) <= delta, d, sign(d) * delta); });
}

Tensor bce_with_logits(const Tensor& logits, const Tensor& target, const BceOptions& o, Loc loc) {
  check_reduction("bce_with_logits", o.reduction, loc);
  check_inputs("bce_with_logits", {&logits, &target}, {&o.weight, &o.pos_weight}, loc);
  check_factor("bce_with_logits", "pos_weight", o.pos_weight, logits.shape(), loc);
  // -ln sigmoid(x) is softplus(-x), and -ln(1 - sigmoid(x)) is that plus x.
  return evaluate(
      {.name = "bce_with_logits",
       .value =
           [](const Tensor& x, const Tensor& t, const Tensor& ones) {
             const Tensor zero_part = (1 - t) * x, factor = ones.defined() ? (ones - 1) * t + 1 : Tensor();
             return zero_part + (factor.defined() ? softplus(-x) * factor : softplus(-x));
           },
       .by_x = [](const Tensor& x, const Tensor& t,
                  const Tensor& ones) { return (1 - t) * sigmoid(x) - (ones.defined() ? ones * t : t) * sigmoid(-x); },
       .by_t = [](const Tensor& x, const Tensor&,
                  const Tensor& ones) { return ones.defined() ? (ones - 1) * softplus(-x) - x : -x; },
       .reduction = o.reduction},
      logits, target, {.weight = o.weight, .ones = o.pos_weight}, loc);
}

Tensor bce(const Tensor& probability, const Tensor& target, const BceOptions& o, Loc loc) {
  check_reduction("bce", o.reduction, loc);
  if (o.pos_weight.defined()) fail<ValueError>(loc, "bce: expected no pos_weight, which is bce_with_logits's");
  const auto held = [](const Tensor& log) { return maximum(log, -100); };
  return evaluate(
      {.name = "bce",
       .value = [=](const Tensor& p, const Tensor& t,
                    const Tensor&) { return (t - 1) * held(log1p(-p)) - t * held(log(p)); },
       // As PyTorch, which divides by 1e-12 at least.
       .by_x = [](const Tensor& p, const Tensor& t, const Tensor&) { return (p - t) / maximum(p * (1 - p), 1e-12); },
       .by_t = [=](const Tensor& p, const Tensor&, const Tensor&) { return held(log1p(-p)) - held(log(p)); },
       .reduction = o.reduction},
      probability, target, {.weight = o.weight}, loc);
}

Tensor kl_div(const Tensor& log_probabilities, const Tensor& target, const KlDivOptions& o, Loc loc) {
  if (o.log_target)
    return evaluate({.name = "kl_div",
                     .value = [](const Tensor& x, const Tensor& t, const Tensor&) { return exp(t) * (t - x); },
                     .by_x = [](const Tensor&, const Tensor& t, const Tensor&) { return -exp(t); },
                     .by_t = [](const Tensor& x, const Tensor& t, const Tensor&) { return exp(t) * (t - x + 1); },
                     .reduction = o.reduction},
                    log_probabilities, target, {}, loc);
  return evaluate({.name = "kl_div",
                   .value = [](const Tensor& x, const Tensor& t, const Tensor&) { return xlogy(t, t) - t * x; },
                   .by_x = [](const Tensor&, const Tensor& t, const Tensor&) { return -t; },
                   .by_t = [](const Tensor& x, const Tensor& t, const Tensor&) { return log(t) + 1 - x; },
                   .reduction = o.reduction},
                  log_probabilities, target, {}, loc);
}

Tensor poisson_nll_loss(const Tensor& input, const Tensor& target, const PoissonNllOptions& o, Loc loc) {
  check_reduction("poisson_nll_loss", o.reduction, loc);
  const double eps = o.eps, two_pi = 6.28318530717958647692;
  const auto stirling = [=](const Tensor& t) { return where(t > 1, t * log(t) - t + log(t * two_pi) * 0.5, 0); };
  const auto stirling_slope = [](const Tensor& t) { return where(t > 1, log(t) + 0.5 / t, 0); };
  return evaluate({.name = "poisson_nll_loss",
                   .value =
                       [=](const Tensor& x, const Tensor& t, const Tensor&) {
                         const Tensor loss = o.log_input ? exp(x) - t * x : x - t * log(x + eps);
                         return o.full ? loss + stirling(t) : loss;
                       },
                   .by_x = [=](const Tensor& x, const Tensor& t,
                               const Tensor&) { return o.log_input ? exp(x) - t : 1 - t / (x + eps); },
                   .by_t =
                       [=](const Tensor& x, const Tensor& t, const Tensor&) {
                         const Tensor slope = o.log_input ? -x : -log(x + eps);
                         return o.full ? slope + stirling_slope(t) : slope;
                       },
                   .reduction = o.reduction},
                  input, target, {}, loc);
}

Tensor gaussian_nll_loss(const Tensor& input, const Tensor& target, const Tensor& variance, const GaussianNllOptions& o,
                         Loc loc) {
  if (const AutocastCall cast{"gaussian_nll_loss", {&input, &target, &variance}})
    return gaussian_nll_loss(cast(input, loc), cast(target, loc), cast(variance, loc), o, loc);
  const OpScope scope("gaussian_nll_loss");
  constexpr const char* name = "gaussian_nll_loss";
  check_reduction(name, o.reduction, loc);
  check_inputs(name, {&input, &target, &variance}, loc);
  for (const Tensor* t : {&input, &target, &variance}) check_floating(name, *t, loc);
  if (!(o.eps > 0)) fail<ValueError>(loc, "{}: expected an eps above 0, got {}", name, o.eps);
  if (input.shape() != target.shape())
    fail<ShapeError>(loc, "{}: expected equal shapes, got {} and {}", name, input.shape(), target.shape());
  check_factor(name, "variance", variance, input.shape(), loc);
  const DType out = promote(promote(input.dtype(), target.dtype()), variance.dtype()), wide = compute_dtype_of(out);
  const Tensor v = variance.to(wide, loc);
  // As in PyTorch, eps takes the place of a smaller variance as if by rounding.
  const Tensor at_least = add(sub(v, v.detach(), loc), o.eps, loc);
  const Tensor held = where(lt(v, o.eps, loc), at_least, v, loc);
  const Tensor d = sub(input.to(wide, loc), target.to(wide, loc), loc);
  Tensor loss = mul(add(log(held, loc), div(square(d, loc), held, loc), loc), 0.5, loc);
  if (o.full) loss = add(loss, 0.91893853320467274178, loc);
  return reduced(loss, o.reduction, loc).to(out, loc);
}

}  // namespace flame
