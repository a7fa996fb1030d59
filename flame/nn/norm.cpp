// Normalisation layers over ops/batch_norm.h and ops/layer_norm.h. Running statistics are at least float32.
#include "flame/nn/norm.h"

#include "flame/core/format.h"
#include "flame/ops/batch_norm.h"
#include "flame/ops/create.h"
#include "flame/ops/layer_norm.h"

namespace flame::nn {
namespace {

Tensor tensor_or_none(const Param& p) { return p.defined() ? p.tensor() : Tensor{}; }

const BatchNorm2dOptions& checked(const BatchNorm2dOptions& o, Loc loc) {
  if (o.channels < 1) fail<ValueError>(loc, "BatchNorm2d: expected channels of 1 or more, got {}", o.channels);
  if (!(o.momentum >= 0 && o.momentum <= 1))
    fail<ValueError>(loc, "BatchNorm2d: expected momentum in [0, 1], got {}", o.momentum);
  if (!(o.eps >= 0)) fail<ValueError>(loc, "BatchNorm2d: expected eps of 0 or more, got {}", o.eps);
  if (!is_float(o.dtype)) fail<DTypeError>(loc, "BatchNorm2d: expected a floating dtype, got {}", o.dtype);
  return o;
}
const LayerNormOptions& checked(const LayerNormOptions& o, Loc loc) {
  if (o.normalized.empty() || numel(o.normalized) < 1)
    fail<ValueError>(loc, "LayerNorm: expected one or more sizes of 1 or more, got {}", o.normalized);
  if (!(o.eps >= 0)) fail<ValueError>(loc, "LayerNorm: expected eps of 0 or more, got {}", o.eps);
  if (!is_float(o.dtype)) fail<DTypeError>(loc, "LayerNorm: expected a floating dtype, got {}", o.dtype);
  return o;
}
Tensor filled(const Shape& shape, double value, DType t, Loc loc) {
  return full(shape, value, t, default_device(), loc);
}
DType statistics_dtype(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }

}  // namespace

BatchNorm2d::BatchNorm2d(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked(o, loc)),
      weight(*this, "weight", o.affine ? filled({o.channels}, 1, o.dtype, loc) : Tensor{}, loc),
      bias(*this, "bias", o.affine ? filled({o.channels}, 0, o.dtype, loc) : Tensor{}, loc),
      running_mean(*this, "running_mean", filled({o.channels}, 0, statistics_dtype(o.dtype), loc), loc),
      running_var(*this, "running_var", filled({o.channels}, 1, statistics_dtype(o.dtype), loc), loc) {}

Tensor BatchNorm2d::forward(const Tensor& x, Loc loc) {
  if (x.rank() != 4)
    fail<ShapeError>(loc, "BatchNorm2d: expected [N, {}, H, W], got shape {}", options.channels, x.shape());
  return batch_norm(x, running_mean, running_var, tensor_or_none(weight), tensor_or_none(bias),
                    {.training = is_training(), .momentum = options.momentum, .eps = options.eps}, loc);
}

std::string BatchNorm2d::kind() const { return fmt::format("BatchNorm2d({})", options.channels); }

LayerNorm::LayerNorm(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked(o, loc)),
      weight(*this, "weight", o.affine ? filled(o.normalized, 1, o.dtype, loc) : Tensor{}, loc),
      bias(*this, "bias", o.affine ? filled(o.normalized, 0, o.dtype, loc) : Tensor{}, loc) {}

Tensor LayerNorm::forward(const Tensor& x, Loc loc) {
  return layer_norm(x, options.normalized, tensor_or_none(weight), tensor_or_none(bias), options.eps, loc);
}

std::string LayerNorm::kind() const { return fmt::format("LayerNorm({})", options.normalized); }

}  // namespace flame::nn
