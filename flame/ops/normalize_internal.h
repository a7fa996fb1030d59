// Internal: the normalisation that layer, batch, group and instance norm share, and its checks.
#pragma once
#include <functional>
#include <optional>

#include "flame/tensor/tensor.h"

namespace flame {

// weight and bias broadcast against x, or are undefined.
struct Normalized {
  Tensor y;          // (x - mean) / sqrt(var + eps) * weight + bias, in x's dtype
  Tensor mean, var;  // over the axes, which stay with size 1; biased; float32 or float64; without gradient
};
// Called with them before anything is pending that a host action or a write of a State would run.
using MomentsSeen = std::function<void(const Tensor& mean, const Tensor& var)>;
Normalized normalize(const char* name, const Tensor& x, const Dims& axes, const Tensor& weight, const Tensor& bias,
                     double eps, Loc loc, const MomentsSeen& seen = {});

// The axes over which the last sizes `normalized` lie; throws as op `name` unless x is floating and ends in them.
Dims last_axes(const char* name, const Tensor& x, const Shape& normalized, Loc loc);
// What the norms over [N, C, ...] check: a floating x of rank 2 or more, and [C] for each defined one of the others.
void check_channels(const char* name, const Tensor& x, const State& running_mean, const State& running_var,
                    const Tensor& weight, const Tensor& bias, Loc loc);
// [C] as it broadcasts against [N, C, ...] of that rank; undefined stays so.
Tensor along_channels(const Tensor& v, int rank, Loc loc);
// running = (1 - momentum) running + momentum fresh, for both at once: all is computed before anything is written, so that
// running out of memory changes nothing. Undefined states are left out. With a defined `batches` (int64, 0-d) it counts
// on, and no momentum means 1 / batches.
void update_running(const State& mean, const Tensor& fresh_mean, const State& var, const Tensor& fresh_var,
                    std::optional<double> momentum, const State& batches, Loc loc);
// Normalised by running statistics instead of the input's own.
Tensor normalize_by(const Tensor& x, const State& mean, const State& var, const Tensor& weight, const Tensor& bias,
                    double eps, Loc loc);

inline DType compute_dtype_of(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

}  // namespace flame
