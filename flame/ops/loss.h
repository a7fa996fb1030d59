// Losses of one prediction an element, and how losses are reduced; those over classes are in cross_entropy.h. Computed in
// float32 or float64 and rounded once. Only the inputs are kept for backward.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// batch_mean, of kl_div alone: the sum divided by the first size.
enum class Reduction : uint8_t { none, mean, sum, batch_mean };

// Predictions and targets of equal shape (ShapeError), the prediction floating (DTypeError). Both get a gradient.
Tensor mse_loss(const Tensor& prediction, const Tensor& target, Reduction r = Reduction::mean,
                Loc loc = Loc::current());
Tensor l1_loss(const Tensor& prediction, const Tensor& target, Reduction r = Reduction::mean, Loc loc = Loc::current());

struct SmoothL1Options {
  double beta = 1.0;  // 0 or more; 0 is l1_loss
  Reduction reduction = Reduction::mean;
};
// d^2 / (2 beta) where |d| < beta, else |d| - beta / 2.
Tensor smooth_l1_loss(const Tensor& prediction, const Tensor& target, const SmoothL1Options& o = {},
                      Loc loc = Loc::current());
struct HuberOptions {
  double delta = 1.0;  // above 0
  Reduction reduction = Reduction::mean;
};
// d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2) (Huber 1964).
Tensor huber_loss(const Tensor& prediction, const Tensor& target, const HuberOptions& o = {}, Loc loc = Loc::current());

struct BceOptions {
  Tensor weight = {};      // a factor per element, broadcast; gets no gradient
  Tensor pos_weight = {};  // a factor for the target's ones, broadcast; of bce_with_logits alone; gets no gradient
  Reduction reduction = Reduction::mean;
};
// Binary cross-entropy of sigmoid(logits) against targets in [0, 1], without overflow for any logit.
Tensor bce_with_logits(const Tensor& logits, const Tensor& target, const BceOptions& o = {}, Loc loc = Loc::current());
// -(t ln p + (1 - t) ln(1 - p)) for probabilities p; the logarithms are held at -100 or more, as in PyTorch. A p outside
// [0, 1] gives NaN.
Tensor bce(const Tensor& probability, const Tensor& target, const BceOptions& o = {}, Loc loc = Loc::current());

struct KlDivOptions {
  bool log_target = false;  // the target holds logarithms, too
  Reduction reduction = Reduction::mean;
};
// t (ln t - x) of log-probabilities x, 0 ln 0 being 0; with log_target e^t (t - x).
Tensor kl_div(const Tensor& log_probabilities, const Tensor& target, const KlDivOptions& o = {},
              Loc loc = Loc::current());

struct PoissonNllOptions {
  bool log_input = true;  // the input is the logarithm of the rate
  bool full = false;      // adds Stirling's approximation of ln t!, for t > 1
  double eps = 1e-8;      // added to a rate before its logarithm
  Reduction reduction = Reduction::mean;
};
// e^x - t x, or x - t ln(x + eps).
Tensor poisson_nll_loss(const Tensor& input, const Tensor& target, const PoissonNllOptions& o = {},
                        Loc loc = Loc::current());

struct GaussianNllOptions {
  bool full = false;  // adds ln(2 pi) / 2
  double eps = 1e-6;  // the variance is held at eps or more; what that changes gets no gradient of its own
  Reduction reduction = Reduction::mean;
};
// (ln v + (x - t)^2 / v) / 2. The variance broadcasts against the input; unlike in PyTorch a negative one is no error.
Tensor gaussian_nll_loss(const Tensor& input, const Tensor& target, const Tensor& variance,
                         const GaussianNllOptions& o = {}, Loc loc = Loc::current());

}  // namespace flame
