// Internal: the element loops of the optimizers, in SIMD, and the plan that runs them over many tensors.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "flame/device/cpu/parallel.h"
#include "flame/device/device.h"

namespace flame::optim {

// What a kernel reads of one parameter's step. The first three mean the same everywhere: the factor of the gradient (1,
// or -1 uphill), what remains of the parameter by decoupled decay, and the L2 decay that is added to the gradient.
using UpdateArguments = std::array<double, 10>;

// p and its moments m are updated in place from g, n elements of one dtype.
using UpdateFn = void (*)(const UpdateArguments& a, void* p, const void* g, void* const* m, int64_t n);

// Each for float32 and float64, in this machine's best instruction set.
struct Kernels {
  // {.., 1 - beta1, beta2, 1 - beta2, sqrt(bias correction 2), eps, lr / bias correction 1}
  UpdateFn adam[2], amsgrad[2];
  // {.., 1 - beta1, beta2, 1 - beta2, bias correction 2, eps, factors of g and of m in the update}
  UpdateFn nadam[2];
  // {.., 1 - beta1, beta2, 1 - beta2, rectified sqrt(bias correction 2) or 0, eps, lr / bias correction 1}
  UpdateFn radam[2];
  UpdateFn adamax[2];        // {.., 1 - beta1, beta2, eps, lr / bias correction 1}
  UpdateFn sgd[2];           // {.., lr}
  UpdateFn sgd_momentum[2];  // {.., lr, momentum, factor of g in the buffer, factors of g and of it in the update}
  UpdateFn rmsprop[2][4];    // {.., lr, alpha, 1 - alpha, eps, momentum}; + 1: with a buffer, + 2: centered
  UpdateFn adagrad[2];       // {.., lr, eps}
  UpdateFn lion[2];          // {.., lr, beta1, 1 - beta1, beta2, 1 - beta2}
  UpdateFn average[2];       // {.., weight}: p moves towards g by the weight; 1 copies
  static const Kernels& best();
};
// The dtype in which a parameter of dtype `t` is updated, and its index above.
constexpr DType compute_dtype(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }
constexpr int kernel_index(DType t) { return t == DType::f64 ? 1 : 0; }

inline constexpr int max_moments = 3;

struct UpdateTensor {
  UpdateFn kernel;  // null where the plan has kernels of its own
  DType parameter, gradient;
  Shape shape;
  Strides strides;  // of parameter and gradient: dense
  int moments;
  size_t block;                      // index of its UpdateArguments
  std::optional<DType> shadow = {};  // a copy of the parameter in 16 bits is written as well
  // The parameter, its moments and its shadow.
  size_t buffers() const { return 1 + static_cast<size_t>(moments) + (shadow ? 1 : 0); }
};
// Buffers: all gradients; if clipped a factor of them all (float64); then for each tensor what it has.
// scalars[0]: address of the first block. The second by kernels from text.
Ref<Plan> update_plan(const char* name, const std::vector<UpdateTensor>& tensors, Device& d, bool clipped = false);
Ref<Plan> device_update_plan(const char* name, const std::vector<UpdateTensor>& tensors, Device& d, bool clipped);

inline constexpr int64_t grain = 32768;  // elements worth a thread

// fn(item) for the sorted items that begin at `place` among `total` elements, on as many threads as those are worth.
template <class Item, class F>
void each_item(const std::vector<Item>& items, int64_t total, const F& fn) {
  parallel_for(total, grain, [&](int64_t begin, int64_t end) {
    auto it =
        std::lower_bound(items.begin(), items.end(), begin, [](const Item& x, int64_t at) { return x.place < at; });
    for (; it != items.end() && it->place < end; ++it) fn(*it);
  });
}

inline void* element(void* base, DType t, int64_t i) {
  return static_cast<char*>(base) + i * static_cast<int64_t>(size_of(t));
}

}  // namespace flame::optim
