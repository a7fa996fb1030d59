// Internal: what the ops that clip gradients share: loops over chunks of many tensors, and their kernels.
#pragma once
#include <vector>

#include "flame/optim/update_internal.h"
#include "flame/tensor/op.h"

namespace flame::optim {

// The sum of |x|, x^2, or the largest |x| (NaN if there is one), in an order that depends on n alone.
using NormFn = double (*)(const void* x, int64_t n);
using ScaleFn = void (*)(const void* x, double number, void* out, int64_t n);
struct ClipKernels {
  NormFn absolutes[2], squares[2], largest[2];
  ScaleFn scale[2];  // out = x * number
  ScaleFn clamp[2];  // out = x within +-number; NaN stays
  static const ClipKernels& best();
};

inline constexpr int64_t clip_chunk = 4096;  // elements summed or scaled at a time, never across tensors

// x[0, n) of a buffer in the dtype of the kernels, 16-bit dtypes by way of `stage` (clip_chunk elements).
const void* staged(void* buffer, DType t, int64_t begin, int64_t n, float* stage);
// out = kernel(in, number), n elements from `begin` of each.
void scale_chunk(const ScaleFn (&kernels)[2], DType t, void* in, void* out, int64_t begin, int64_t n, double number);

// The same on a device that takes kernels from text. Buffers: the gradients, if scaled their scale, then the norm and the factor
// (float64);
// the gradients, if by_factor the factor, then the scaled or (by scalars[0]) limited ones.
Ref<Plan> device_norm_plan(const char* name, std::span<const Meta> gradients, DType norm, bool scaled, Device& d);
Ref<Plan> device_scale_plan(const char* name, std::span<const Meta> gradients, bool by_factor, Device& d);
// Of adaptive clipping: `in` are the gradients, then their parameters.
Ref<Plan> device_clip_adaptive_plan(const char* name, std::span<const Meta> in, Device& d);

struct GradientsOf {
  std::vector<const Parameter*> owners;
  std::vector<Tensor> tensors;
};
// Those there are; DTypeError unless floating.
GradientsOf gradients_of(const char* who, const std::vector<Parameter>& parameters, Loc loc);

// The p-norm of all gradients and the factor min(1, max_norm / (norm + 1e-6)), float64; and the gradients scaled by it.
struct NormAndFactor {
  Tensor norm, factor;
};
// With a scale (float32, its first element) the gradients are taken as that many times too large: the factor takes it away
// too, and is NaN if a gradient is not finite.
NormAndFactor grad_norm(const std::vector<Tensor>& gradients, double max_norm, double norm_type, Loc loc,
                        const Tensor& scale = {});
std::vector<Tensor> scaled(std::vector<Tensor> gradients, const Tensor& factor, Loc loc);

}  // namespace flame::optim
