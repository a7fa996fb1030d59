// Losses. Composed of island ops: the forward of cross_entropy is one pass over the logits and a small sum, the backward one.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

enum class Reduction : uint8_t { none, mean, sum };

struct CrossEntropyOptions {
  Tensor weight = {};                     // [C], a factor per class; gets no gradient
  int64_t ignore_index = -100;            // targets of this class count for nothing
  double label_smoothing = 0.0;           // in [0, 1]
  Reduction reduction = Reduction::mean;  // weighted by `weight`; NaN if every target is ignored
};
// logits [N, C] or [N, C, d...] or [C], against target int64 (or int32) [N], [N, d...] or [], or against probabilities of the
// logits' own shape. Computed in float32 or float64. Where memory is host-accessible, a class outside [0, C) other than
// ignore_index throws IndexError naming it; on other devices it would cost a stall, and such a row counts as class-less.
Tensor cross_entropy(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& o = {},
                     Loc loc = Loc::current());

struct NllLossOptions {
  Tensor weight = {};
  int64_t ignore_index = -100;
  Reduction reduction = Reduction::mean;
};
// -log_probabilities[target]; shapes as for cross_entropy.
Tensor nll_loss(const Tensor& log_probabilities, const Tensor& target, const NllLossOptions& o = {},
                Loc loc = Loc::current());

// Of (prediction - target), which must have equal shapes.
Tensor mse_loss(const Tensor& prediction, const Tensor& target, Reduction r = Reduction::mean,
                Loc loc = Loc::current());
Tensor l1_loss(const Tensor& prediction, const Tensor& target, Reduction r = Reduction::mean, Loc loc = Loc::current());

struct BceOptions {
  Tensor weight = {};      // a factor per element, broadcast
  Tensor pos_weight = {};  // a factor for the target's ones, broadcast
  Reduction reduction = Reduction::mean;
};
// Binary cross-entropy of sigmoid(logits) against targets in [0, 1], without overflow for any logit.
Tensor bce_with_logits(const Tensor& logits, const Tensor& target, const BceOptions& o = {}, Loc loc = Loc::current());

}  // namespace flame
