// Internal: the element loops of the optimizers, in SIMD, and the plan that runs them over many tensors.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "flame/device/cpu/parallel.h"
#include "flame/device/device.h"
#include "flame/device/kernel.h"
#include "flame/optim/numbers.h"

namespace flame::optim {

// What a kernel reads of one parameter's step, see numbers.h.
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
// Gradients are read; parameters and moments are read and written, shadows written.
Work update_work(const std::vector<UpdateTensor>& tensors);
// How arguments follow from a step: in numbers.h, by name for kernels.
struct StepNumbers {
  const char* name;
  void (*of)(const Hyper& h, double n, double* arguments);
};
// A parameter's step as the host knows it: it counts the skipped ones too.
struct StepOf {
  Hyper h;
  int64_t steps = 0;
};
struct UpdateWays {
  bool clipped = false;                 // gradients are multiplied by a factor
  bool skips = false;                   // there is a factor, and NaN skips the step
  const StepNumbers* counts = nullptr;  // set: the device knows how many steps were skipped, and computes the arguments
  bool operator==(const UpdateWays&) const = default;
  bool has_factor() const { return clipped || skips; }
};
// Buffers: all gradients; if there is one the factor of them all (float64); then for each tensor what it has; if the device
// counts, how many steps were skipped, int64. scalars: the addresses of the first block and, by the same index, of the first
// StepOf. The second by kernels from text.
Ref<Plan> update_plan(const char* name, const std::vector<UpdateTensor>& tensors, Device& d,
                      const UpdateWays& ways = {});
Ref<Plan> device_update_plan(const char* name, const std::vector<UpdateTensor>& tensors, Device& d,
                             const UpdateWays& ways);

// Where the device counts. On the CPU: whether the step is skipped (NaN in `skip`, unless null), which is then counted, else the
// arguments of the tensors; on a GPU the kernel that does so, which writes arguments[10 * i] of tensor i.
bool skipped_on_cpu(const Run& run, const std::vector<UpdateTensor>& tensors, const StepNumbers& numbers,
                    const double* skip, size_t counts, std::vector<UpdateArguments>& arguments);
class DeviceNumbers {
 public:
  DeviceNumbers() = default;  // launches nothing
  DeviceNumbers(const char* name, const std::vector<UpdateTensor>& tensors, Device& d, const UpdateWays& ways,
                size_t counts);
  void launch(const Run& run, const double* skip, double* arguments) const;
  size_t workspace() const { return slots_.size() * sizeof(UpdateArguments); }
  explicit operator bool() const { return kernel_ != nullptr; }

 private:
  Ref<Kernel> kernel_;
  std::vector<size_t> slots_;
  size_t counts_ = 0;
};

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
