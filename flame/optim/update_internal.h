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
using SquaresFn = double (*)(const void* x, int64_t n);  // the sum of squares, in an order that depends on n alone
using ScaleFn = void (*)(const void* x, double number, void* out, int64_t n);

// Each for float32 and float64, in this machine's best instruction set.
struct Kernels {
  // a: {1 - lr * decoupled decay, L2 decay, 1 - beta1, beta2, 1 - beta2, sqrt(bias correction 2), eps,
  //     lr / bias correction 1}
  UpdateFn adam[2];
  UpdateFn sgd[2];  // a: {L2 decay, lr}
  // a: {L2 decay, lr, momentum, factor of g in the buffer, factors of g and of the buffer in the update}
  UpdateFn sgd_momentum[2];
  SquaresFn squares[2];
  ScaleFn scale[2];  // out = x * number
  ScaleFn clamp[2];  // out = x within +-number; NaN stays
  static const Kernels& best();
};
// The dtype in which a parameter of dtype `t` is updated, and its index above.
constexpr DType compute_dtype(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }
constexpr int kernel_index(DType t) { return t == DType::f64 ? 1 : 0; }

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
