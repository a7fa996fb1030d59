// Internal: a matrix product with its metadata worked out, and the three ways to compute it.
#pragma once
#include "flame/device/device.h"

namespace flame {

// c[batch, i, j] = sum over p of a[batch, i, p] * b[batch, p, j] (+ bias[j]). Strides count elements.
struct GemmProblem {
  struct Matrix {
    Strides batch;  // one per axis of `batch` below, 0 where broadcast
    int64_t rs, cs;
  };
  DType dtype;  // of a and b
  int64_t m, n, k;
  Shape batch;  // axes that cannot be merged; empty for one product
  Matrix a, b, c;
  bool bias, add;
  DType c_dtype;

  int64_t batches() const { return numel(batch); }
  double multiplications() const {
    return static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) * static_cast<double>(batches());
  }
};
// Where product `i` of the batch starts, in elements.
struct GemmOffsets {
  int64_t a, b, c;
};
GemmOffsets gemm_offsets(const GemmProblem& p, int64_t i);

GemmProblem gemm_problem(const GemmDesc& d);   // checks, merges batch axes, folds them into m where b is shared
Ref<Plan> gemm_small(const GemmProblem& p);    // null where no kernel fits the dtype or strides
Ref<Plan> gemm_blocked(const GemmProblem& p);  // any
#ifdef FLAME_WITH_ONEDNN
Ref<Plan> gemm_onednn(const GemmProblem& p);  // null where oneDNN refuses
#endif

}  // namespace flame
