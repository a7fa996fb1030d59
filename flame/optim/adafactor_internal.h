// Internal: Adafactor's launch over many tensors, which reduces rows, columns and whole tensors before it writes.
#pragma once
#include "flame/optim/update_internal.h"

namespace flame::optim {

// One row's pieces, n elements each; float32 or float64. Sums are taken in an order that depends on n alone.
// A factored second moment is 1 / (a * b[i])^2, that of a vector v[i]; `cap` limits 1 / its root.
struct FactorKernels {
  double (*squares[2])(const void* x, int64_t n);
  double (*row_squares[2])(const void* g, void* columns, int64_t n);  // columns[i] += g[i]^2 as well
  double (*factored_squares[2])(const void* g, const void* b, double a, double cap, int64_t n);  // of the update
  // p = p * keep - rate * g * min(a * b, cap)
  void (*factored_update[2])(void* p, const void* g, const void* b, double a, double cap, double keep, double rate,
                             int64_t n);
  double (*vector_squares[2])(const void* g, void* v, double weight, double cap, int64_t n);  // v moves to g^2 first
  void (*vector_update[2])(void* p, const void* g, const void* v, double cap, double keep, double rate, int64_t n);
  static const FactorKernels& best();
};

// Of update_plan's form. Arguments: {sign, decay factor, -, weight, rate, eps1 or NaN, eps2, d, whether scaled}.
// Gradients come scaled; the factor among the buffers only says whether the step is skipped.
Ref<Plan> adafactor_plan(const char* name, const std::vector<UpdateTensor>& tensors, Device& d, const UpdateWays& ways);
Ref<Plan> device_adafactor_plan(const char* name, const std::vector<UpdateTensor>& tensors, Device& d,
                                const UpdateWays& ways);  // by kernels from text

}  // namespace flame::optim
