// Normalisation layers over the ops of their names. Running statistics are at least float32.
#include "flame/nn/norm.h"

#include "flame/core/format.h"
#include "flame/nn/options_internal.h"
#include "flame/ops/batch_norm.h"
#include "flame/ops/create.h"
#include "flame/ops/group_norm.h"
#include "flame/ops/layer_norm.h"
#include "flame/ops/rms_norm.h"

namespace flame::nn {
namespace {

// What the layers over [N, channels, ...] have in common.
template <class O>
const O& checked_channels(const char* kind, const O& o, Loc loc) {
  if (o.channels < 1) fail<ValueError>(loc, "{}: expected channels of 1 or more, got {}", kind, o.channels);
  if (!(o.eps >= 0)) fail<ValueError>(loc, "{}: expected eps of 0 or more, got {}", kind, o.eps);
  check_float(kind, o.dtype, loc);
  return o;
}
template <class O>
const O& checked_momentum(const char* kind, const O& o, double momentum, Loc loc) {
  if (!(momentum >= 0 && momentum <= 1))
    fail<ValueError>(loc, "{}: expected momentum in [0, 1], got {}", kind, momentum);
  return checked_channels(kind, o, loc);
}
const GroupNormOptions& checked(const GroupNormOptions& o, Loc loc) {
  if (o.groups < 1 || o.channels % o.groups != 0)
    fail<ValueError>(loc, "GroupNorm: expected groups that divide {} channels, got {}", o.channels, o.groups);
  return checked_channels("GroupNorm", o, loc);
}
template <class O>
const O& checked_sizes(const char* kind, const O& o, double eps, Loc loc) {
  if (o.normalized.empty() || numel(o.normalized) < 1)
    fail<ValueError>(loc, "{}: expected one or more sizes of 1 or more, got {}", kind, o.normalized);
  if (!(eps >= 0)) fail<ValueError>(loc, "{}: expected eps of 0 or more, got {}", kind, eps);
  check_float(kind, o.dtype, loc);
  return o;
}
Tensor filled(bool wanted, const Shape& shape, double value, DType t, Loc loc) {
  return wanted ? full(shape, value, t, default_device(), loc) : Tensor{};
}
DType statistics_dtype(DType t) { return t == DType::f64 ? DType::f64 : DType::f32; }
Tensor no_batches(bool wanted, Loc loc) { return wanted ? full({}, 0, DType::i64, default_device(), loc) : Tensor{}; }

}  // namespace

BatchNorm::BatchNorm(const char* kind, int lowest_rank, int highest_rank, Module* parent, std::string name,
                     const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked_momentum(kind, o, o.momentum.value_or(0), loc)),
      weight(*this, "weight", filled(o.affine, {o.channels}, 1, o.dtype, loc), loc),
      bias(*this, "bias", filled(o.affine, {o.channels}, 0, o.dtype, loc), loc),
      running_mean(*this, "running_mean", filled(o.track, {o.channels}, 0, statistics_dtype(o.dtype), loc), loc),
      running_var(*this, "running_var", filled(o.track, {o.channels}, 1, statistics_dtype(o.dtype), loc), loc),
      num_batches_tracked(*this, "num_batches_tracked", no_batches(o.track, loc), loc),
      kind_(kind),
      lowest_rank_(lowest_rank),
      highest_rank_(highest_rank) {}

Tensor BatchNorm::forward(const Tensor& x, Loc loc) {
  if (x.rank() < lowest_rank_ || x.rank() > highest_rank_) {
    constexpr const char* axes[] = {"[N, {0}] or [N, {0}, L]", "[N, {0}, H, W]", "[N, {0}, D, H, W]"};
    fail<ShapeError>(loc, "{}: expected {}, got shape {}", kind_,
                     fmt::format(fmt::runtime(axes[highest_rank_ - 3]), options.channels), x.shape());
  }
  return batch_norm(x, running_mean, running_var, tensor_or_none(weight), tensor_or_none(bias),
                    {.training = !options.track || is_training(),
                     .momentum = options.track ? options.momentum : 0,
                     .eps = options.eps,
                     .batches = num_batches_tracked},
                    loc);
}

std::string BatchNorm::kind() const { return fmt::format("{}({})", kind_, options.channels); }

InstanceNorm::InstanceNorm(const char* kind, int rank, Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked_momentum(kind, o, o.momentum, loc)),
      weight(*this, "weight", filled(o.affine, {o.channels}, 1, o.dtype, loc), loc),
      bias(*this, "bias", filled(o.affine, {o.channels}, 0, o.dtype, loc), loc),
      running_mean(*this, "running_mean", filled(o.track, {o.channels}, 0, statistics_dtype(o.dtype), loc), loc),
      running_var(*this, "running_var", filled(o.track, {o.channels}, 1, statistics_dtype(o.dtype), loc), loc),
      num_batches_tracked(*this, "num_batches_tracked", no_batches(o.track, loc), loc),
      kind_(kind),
      rank_(rank) {}

Tensor InstanceNorm::forward(const Tensor& x, Loc loc) {
  if (x.rank() != rank_ && x.rank() != rank_ - 1)
    fail<ShapeError>(loc, "{}: expected an input of rank {}, or of one sample, got shape {}", kind_, rank_, x.shape());
  if (x.rank() == rank_ - 1) return forward(x.unsqueeze(0, loc), loc).squeeze(0, loc);
  if (x.shape()[1] != options.channels)
    fail<ShapeError>(loc, "{}: expected {} channels, got shape {}", kind_, options.channels, x.shape());
  return instance_norm(
      x, running_mean, running_var, tensor_or_none(weight), tensor_or_none(bias),
      {.use_input_stats = !options.track || is_training(), .momentum = options.momentum, .eps = options.eps}, loc);
}

std::string InstanceNorm::kind() const { return fmt::format("{}({})", kind_, options.channels); }

GroupNorm::GroupNorm(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked(o, loc)),
      weight(*this, "weight", filled(o.affine, {o.channels}, 1, o.dtype, loc), loc),
      bias(*this, "bias", filled(o.affine, {o.channels}, 0, o.dtype, loc), loc) {}

Tensor GroupNorm::forward(const Tensor& x, Loc loc) {
  if (x.rank() < 2 || x.shape()[1] != options.channels)
    fail<ShapeError>(loc, "GroupNorm: expected [N, {}, ...], got shape {}", options.channels, x.shape());
  return group_norm(x, options.groups, tensor_or_none(weight), tensor_or_none(bias), options.eps, loc);
}

std::string GroupNorm::kind() const { return fmt::format("GroupNorm({}, {})", options.groups, options.channels); }

LayerNorm::LayerNorm(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked_sizes("LayerNorm", o, o.eps, loc)),
      weight(*this, "weight", filled(o.affine, o.normalized, 1, o.dtype, loc), loc),
      bias(*this, "bias", filled(o.affine && o.bias, o.normalized, 0, o.dtype, loc), loc) {}

Tensor LayerNorm::forward(const Tensor& x, Loc loc) {
  return layer_norm(x, options.normalized, tensor_or_none(weight), tensor_or_none(bias), options.eps, loc);
}

std::string LayerNorm::kind() const { return fmt::format("LayerNorm({})", options.normalized); }

RMSNorm::RMSNorm(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked_sizes("RMSNorm", o, o.eps.value_or(0), loc)),
      weight(*this, "weight", filled(o.affine, o.normalized, 1, o.dtype, loc), loc) {}

Tensor RMSNorm::forward(const Tensor& x, Loc loc) {
  return rms_norm(x, options.normalized, tensor_or_none(weight), options.eps, loc);
}

std::string RMSNorm::kind() const { return fmt::format("RMSNorm({})", options.normalized); }

}  // namespace flame::nn
