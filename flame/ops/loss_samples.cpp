// Registers the losses of loss.h with samples: kinks, where a prediction meets its target, are kept away from.
#include "flame/ops/create.h"
#include "flame/ops/loss.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

using Inputs = std::vector<Tensor>;
using Loss = Tensor (*)(const Tensor& x, const Tensor& t, Reduction r);

struct Range {
  double low, high;
};
RegisterOp registered(const char* name, const char* signature, const char* formula, Range of_x, Range of_t, Loss fn) {
  return RegisterOp(
      {.name = name, .signature = signature, .formula = formula, .samples = [=](DType t) {
         const auto with = [fn](Reduction r) {
           return [fn, r](const Inputs& in) { return Inputs{fn(in[0], in[1], r)}; };
         };
         const auto [a, b] = of_x;
         const auto [c, d] = of_t;
         using namespace samples;
         return std::vector<SampleCase>{
             {{uniform({3, 7}, t, 1, a, b), uniform({3, 7}, t, 2, c, d)}, with(Reduction::mean), "mean"},
             {{transposed({3, 4}, t, 1, a, b), strided({3, 4}, t, 2, c, d)}, with(Reduction::none), "mixed layouts"},
             {{uniform({}, t, 1, a, b), uniform({}, t, 2, c, d)}, with(Reduction::sum), "0-d"},
             {{uniform({0, 3}, t, 1, a, b), uniform({0, 3}, t, 2, c, d)}, with(Reduction::sum), "empty"},
         };
       }});
}

const RegisterOp losses[] = {
    registered("mse_loss", "mse_loss(prediction, target, reduction)", "(a - b)^2", {1.1, 2}, {0, 1},
               [](const Tensor& x, const Tensor& t, Reduction r) { return mse_loss(x, t, r); }),
    registered("l1_loss", "l1_loss(prediction, target, reduction)", "|a - b|", {1.1, 2}, {0, 1},
               [](const Tensor& x, const Tensor& t, Reduction r) { return l1_loss(x, t, r); }),
    registered("smooth_l1_loss", "smooth_l1_loss(prediction, target, options)",
               "d^2 / (2 beta) if |d| < beta, else |d| - beta / 2, with d = a - b", {1.1, 2}, {0, 1},
               [](const Tensor& x, const Tensor& t, Reduction r) {
                 return smooth_l1_loss(x, t, {.beta = 0.93, .reduction = r});
               }),
    registered("huber_loss", "huber_loss(prediction, target, options)",
               "d^2 / 2 if |d| <= delta, else delta (|d| - delta / 2), with d = a - b", {1.1, 2}, {0, 1},
               [](const Tensor& x, const Tensor& t, Reduction r) {
                 return huber_loss(x, t, {.delta = 0.93, .reduction = r});
               }),
    registered("bce_with_logits", "bce_with_logits(logits, target, options)", "(1 - t) x + log(1 + exp(-x))", {1.1, 2},
               {0, 1},
               [](const Tensor& x, const Tensor& t, Reduction r) {
                 return bce_with_logits(x, t, {.pos_weight = full({}, 1.5, x.dtype(), x.device()), .reduction = r});
               }),
    registered("bce", "bce(probability, target, options)", "-(t log(p) + (1 - t) log(1 - p))", {0.1, 0.9}, {0, 1},
               [](const Tensor& x, const Tensor& t, Reduction r) { return bce(x, t, {.reduction = r}); }),
    registered("kl_div", "kl_div(log_probabilities, target, options)", "t (log(t) - x)", {-2, -0.1}, {0.2, 1},
               [](const Tensor& x, const Tensor& t, Reduction r) {
                 return kl_div(x, t, {.reduction = r == Reduction::mean ? Reduction::batch_mean : r});
               }),
    registered("poisson_nll_loss", "poisson_nll_loss(input, target, options)", "exp(x) - t x", {-1, 1}, {1.2, 3},
               [](const Tensor& x, const Tensor& t, Reduction r) {
                 return poisson_nll_loss(x, t, {.full = r == Reduction::none, .reduction = r});
               }),
};

const RegisterOp registered_gaussian({
    .name = "gaussian_nll_loss",
    .signature = "gaussian_nll_loss(input, target, variance, options)",
    .formula = "(log(v) + (x - t)^2 / v) / 2",
    .samples =
        [](DType t) {
          const auto with = [](Reduction r) {
            return [r](const Inputs& in) { return Inputs{gaussian_nll_loss(in[0], in[1], in[2], {.reduction = r})}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({3, 5}, t, 1), uniform({3, 5}, t, 2), uniform({3, 5}, t, 3, 0.5, 2)},
               with(Reduction::mean),
               "mean"},
              {{transposed({3, 4}, t, 1), strided({3, 4}, t, 2), uniform({3, 1}, t, 3, 0.5, 2)},
               with(Reduction::none),
               "a variance a row"},
          };
        },
});

}  // namespace
}  // namespace flame
