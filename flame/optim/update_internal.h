// Internal: the element loops of the optimizers, in SIMD, and the plan that runs them over many tensors.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "flame/device/device.h"

namespace flame::optim {

// What a kernel reads of one parameter's step; each algorithm gives the numbers their meaning.
using UpdateArguments = std::array<double, 8>;

// p and up to two moments are updated in place from g, n elements of one dtype.
using UpdateFn = void (*)(const UpdateArguments& a, void* p, const void* g, void* m, void* v, int64_t n);

// a: {1 - lr * decoupled decay, L2 decay, 1 - beta1, beta2, 1 - beta2, sqrt(bias correction 2), eps, lr / bias correction 1}
UpdateFn adam_kernel(DType compute);
// a: {L2 decay, lr}
UpdateFn sgd_kernel(DType compute);
// a: {L2 decay, lr, momentum, factor of g in the buffer, factor of g in the update, factor of the buffer in the update}
UpdateFn sgd_momentum_kernel(DType compute);

struct UpdateTensor {
  UpdateFn kernel;
  DType parameter, gradient;
  int64_t numel;
  int moments;
  size_t block;  // index of its UpdateArguments
};
// Buffers: all gradients; then for each tensor the parameter and its moments. scalars[0]: address of the first block.
Ref<Plan> update_plan(const char* name, const std::vector<UpdateTensor>& tensors);

}  // namespace flame::optim
