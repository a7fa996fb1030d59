// Group and instance norm: the shared normalisation over a view with one axis a group, or over the positions.
#include "flame/ops/group_norm.h"

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/autograd.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {

Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias, double eps, Loc loc) {
  if (const AutocastCall cast{"group_norm", {&x, &weight, &bias}})
    return group_norm(cast(x, loc), groups, cast(weight, loc), cast(bias, loc), eps, loc);
  const OpScope scope("group_norm");
  check_channels("group_norm", x, {}, {}, weight, bias, loc);
  const int64_t samples = x.shape()[0], channels = x.shape()[1];
  if (groups < 1 || channels % groups != 0)
    fail<ValueError>(loc, "group_norm: expected groups that divide {} channels, got {}", channels, groups);
  if (x.numel() == 0) return x;
  const Shape grouped{samples, groups, channels / groups, x.numel() / (samples * channels)};
  if (grouped[2] * grouped[3] * samples == 1)
    fail<ValueError>(loc, "group_norm: expected more than 1 value a group, got input {} in {} groups", x.shape(),
                     groups);
  const auto by_group = [&](const Tensor& v) {
    return v.defined() ? v.reshape({1, groups, channels / groups, 1}, loc) : v;
  };
  return normalize("group_norm", x.reshape(grouped, loc), {2, 3}, by_group(weight), by_group(bias), eps, loc)
      .y.reshape(x.shape(), loc);
}

Tensor instance_norm(const Tensor& x, const State& running_mean, const State& running_var, const Tensor& weight,
                     const Tensor& bias, const InstanceNormOptions& o, Loc loc) {
  const OpScope scope("instance_norm");
  check_channels("instance_norm", x, running_mean, running_var, weight, bias, loc);
  if (x.rank() < 3)
    fail<ShapeError>(loc, "instance_norm: expected an input [N, C, ...] with positions, got {}", x.shape());
  const Tensor w = along_channels(weight, x.rank(), loc), b = along_channels(bias, x.rank(), loc);
  if (!o.use_input_stats) {
    if (!running_mean.defined() || !running_var.defined())
      fail<ValueError>(loc, "instance_norm: without input statistics it needs running ones, got none");
    return normalize_by(x, running_mean, running_var, w, b, o.eps, loc);
  }
  int64_t count = 1;
  Dims axes;
  for (int i = 2; i < x.rank(); ++i) {
    axes.push_back(i);
    count *= x.shape()[i];
  }
  if (count == 1)
    fail<ValueError>(loc, "instance_norm: expected more than 1 position to normalise over, got input {}", x.shape());
  if (x.numel() == 0) return x;
  const Normalized n = normalize("instance_norm", x, axes, w, b, o.eps, loc);
  if (running_mean.defined() || running_var.defined()) {
    NoGrad guard;
    const double unbiased = static_cast<double>(count) / static_cast<double>(count - 1);
    update_running(running_mean, mean(n.mean, 0), running_var, mean(n.var, 0) * unbiased, o.momentum, {}, loc);
  }
  return n.y;
}

namespace {
const RegisterOp registered_group({
    .name = "group_norm",
    .signature = "group_norm(x, groups, weight, bias, eps)",
    .formula = "(x - mean) / sqrt(var + eps) weight + bias over each group of channels",
    .samples =
        [](DType t) {
          const auto in_groups = [](int64_t groups) {
            return [groups](const std::vector<Tensor>& in) {
              return std::vector<Tensor>{
                  group_norm(in[0], groups, in.size() > 1 ? in[1] : Tensor(), in.size() > 2 ? in[2] : Tensor())};
            };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({2, 4, 3, 2}, t, 1), uniform({4}, t, 2), uniform({4}, t, 3)}, in_groups(2), "images"},
              {{channels_last({2, 4, 3, 2}, t, 1), strided({4}, t, 2)}, in_groups(4), "a channel a group, no bias"},
              {{transposed({3, 6}, t, 1)}, in_groups(2), "rank 2, transposed, no parameters"},
              {{strided({2, 3, 5}, t, 1), uniform({3}, t, 2), uniform({3}, t, 3)}, in_groups(1), "one group, strided"},
              {{uniform({0, 4, 3}, t, 1)}, in_groups(2), "no samples"},
          };
        },
});
const RegisterOp registered_instance({
    .name = "instance_norm",
    .signature = "instance_norm(x, running_mean, running_var, weight, bias, options)",
    .formula = "(x - mean) / sqrt(var + eps) weight + bias over the positions of each sample and channel",
    .samples =
        [](DType t) {
          const auto with = [](bool own) {
            return [own](const std::vector<Tensor>& in) {
              const int64_t c = in[0].shape()[1];
              const State mean(samples::uniform({c}, DType::f32, 8)), var(samples::uniform({c}, DType::f32, 9, 0.5, 2));
              return std::vector<Tensor>{instance_norm(in[0], mean, var, in.size() > 1 ? in[1] : Tensor(),
                                                       in.size() > 2 ? in[2] : Tensor(), {.use_input_stats = own})};
            };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({2, 3, 4, 2}, t, 1), uniform({3}, t, 2), uniform({3}, t, 3)}, with(true), "images"},
              {{channels_last({2, 2, 3, 3}, t, 1), strided({2}, t, 2)}, with(true), "channels last, no bias"},
              {{transposed({2, 3, 4}, t, 1)}, with(true), "lines, transposed, no parameters"},
              {{uniform({2, 2, 3}, t, 1), uniform({2}, t, 2), uniform({2}, t, 3)}, with(false), "running statistics"},
              {{uniform({0, 2, 3}, t, 1)}, with(true), "no samples"},
          };
        },
});
}  // namespace

}  // namespace flame
