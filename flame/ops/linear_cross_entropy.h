// The last layer of a classifier and its loss in one, so that the logits of all rows never exist at once.
#pragma once
#include "flame/ops/loss.h"

namespace flame {

struct LinearCrossEntropyOptions {
  int64_t ignore_index = -100;            // targets of this class count for nothing
  double label_smoothing = 0.0;           // in [0, 1]
  Reduction reduction = Reduction::mean;  // or sum
  int64_t rows = 0;                       // at most so many rows' logits at a time; 0: a GiB of them
};
// cross_entropy(linear(x, weight), target): x [..., in], weight [classes, in], target int64 (or int32) [...]. The result is 0-d,
// float64 for float64, else float32. Rows go in groups of equal size, whose gradients are computed beside the loss, while their logits
// are there, and multiplied with the incoming one later; for float16, which may need loss scaling, logits are computed again in
// backward. 16-bit gradients of the weight are those of each group added in float32 and rounded; each is rounded before too where
// products do not fuse with sums (Device::fuses).
// Errors: as those of linear and cross_entropy; ValueError for another reduction and for negative rows.
Tensor linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& target,
                            const LinearCrossEntropyOptions& o = {}, Loc loc = Loc::current());

}  // namespace flame
