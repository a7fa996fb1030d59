// Losses over classes. Composed of island ops: the forward of cross_entropy is one pass over the logits and a small sum,
// the backward one.
#pragma once
#include "flame/ops/loss.h"

namespace flame {

struct CrossEntropyOptions {
  Tensor weight = {};                     // [C], a factor per class; gets no gradient
  int64_t ignore_index = -100;            // targets of this class count for nothing
  double label_smoothing = 0.0;           // in [0, 1]
  Reduction reduction = Reduction::mean;  // weighted by `weight`; NaN if every target is ignored
};
// logits [N, C] or [N, C, d...] or [C], against target int64 (or int32) [N], [N, d...] or [], or against probabilities of the
// logits' own shape, which get a gradient and know no ignore_index. Computed in float32 or float64. Where memory is
// host-accessible, a class outside [0, C) other than ignore_index throws IndexError naming it; on other devices it would
// cost a stall, and such a row counts as class-less.
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

}  // namespace flame
