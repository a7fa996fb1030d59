// Internal: cross entropy as part of another op, and the loss of dense rows of logits on a GPU: read once forward, read and
// written once backward, or both in one reading and one writing.
#pragma once
#include "flame/ops/cross_entropy.h"
#include "flame/tensor/op.h"

namespace flame {

// cross_entropy of classes, checked under the name `op`; the result in float32 or float64.
Tensor wide_cross_entropy(const char* op, const Tensor& logits, const Tensor& target, const CrossEntropyOptions& o,
                          Loc loc);

// The loss of logits [N, C] summed over rows, as above, and the logits' gradient times `factor`, 0-d, of the loss'
// dtype. The gradient may take the logits' memory: hand them over. For no weights and Reduction::sum.
struct LossAndGradient {
  Tensor loss, gradient;
};
LossAndGradient cross_entropy_with_gradient(const char* op, Tensor logits, const Tensor& target,
                                            const CrossEntropyOptions& o, const Tensor& factor, Loc loc);

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
// Loss of each row and gradient in one launch; `factor` of one element. The gradient takes the memory of logits that
// nobody else holds.
struct LossesAndGradient {
  Tensor losses, gradient;
};
LossesAndGradient class_row_losses_and_gradient(const ClassRows& c, Tensor logits, const Tensor& target,
                                                const Tensor& factor, Loc loc);

}  // namespace flame
