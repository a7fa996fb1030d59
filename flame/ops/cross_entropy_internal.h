// Internal: cross entropy as part of another op, and the loss of dense rows of logits on a GPU: read once forward, read and
// written once backward.
#pragma once
#include "flame/ops/cross_entropy.h"
#include "flame/tensor/op.h"

namespace flame {

// cross_entropy of classes, checked under the name `op`; the result in float32 or float64.
Tensor wide_cross_entropy(const char* op, const Tensor& logits, const Tensor& target, const CrossEntropyOptions& o,
                          Loc loc);

struct ClassRows {
  int64_t ignored;
  double smoothing;
};
// Whether logits [N, C] (or [C]) are rows that the kernels take.
bool class_rows_fit(const Tensor& logits, int axis);

struct ClassRowLosses {
  Tensor loss, top, log_sum;  // of each row, as the target lies: float32 or float64
};
// target: int64, with size 1 along the class axis, which is the last.
ClassRowLosses class_row_losses(const ClassRows& c, const Tensor& logits, const Tensor& target, Loc loc);
// The gradient in the logits' dtype; `factor`, one a row, is what its loss is multiplied with.
Tensor class_row_gradient(const ClassRows& c, const Tensor& logits, const Tensor& target, const Tensor& top,
                          const Tensor& log_sum, const Tensor& factor, Loc loc);

}  // namespace flame
