// Batch norm: training normalises by the batch through the shared normalisation, evaluation by the running statistics.
#include "flame/ops/batch_norm.h"

#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/samples_internal.h"

namespace flame {
Tensor batch_norm(const Tensor& x, const State& running_mean, const State& running_var, const Tensor& weight,
                  const Tensor& bias, const BatchNormOptions& o, Loc loc) {
  const OpScope scope("batch_norm");
  check_inputs("batch_norm", {&x}, {&weight, &bias}, loc);
  for (const State* s : {&running_mean, &running_var})
    if (s->defined() && &s->device() != &x.device())
      fail<DeviceError>(loc, "batch_norm: expected running statistics on {}, got them on {}", x.device().name(),
                        s->device().name());
  check_channels("batch_norm", x, running_mean, running_var, weight, bias, loc);
  if (!o.momentum && !o.batches.defined())
    fail<ValueError>(loc, "batch_norm: expected a momentum, or a state that counts batches, got neither");
  const Tensor w = along_channels(weight, x.rank(), loc), b = along_channels(bias, x.rank(), loc);

  if (o.training) {
    int64_t count = 1;
    Dims axes;
    for (int i = 0; i < x.rank(); ++i)
      if (i != 1) {
        axes.push_back(i);
        count *= x.shape()[i];
      }
    if (count == 1)
      fail<ValueError>(loc, "batch_norm: expected more than 1 value per channel when training, got input {}",
                       x.shape());
    const auto update = [&](const Tensor& mean, const Tensor& var) {
      const Tensor unbiased = var * (static_cast<double>(count) / static_cast<double>(count - 1));
      update_running(running_mean, mean, running_var, unbiased, o.momentum, o.batches, loc);
    };
    return normalize("batch_norm", x, axes, w, b, o.eps, loc, count > 0 ? MomentsSeen(update) : nullptr).y;
  }

  if (!running_mean.defined() || !running_var.defined())
    fail<ValueError>(loc, "batch_norm: evaluation needs running statistics, got none");
  return normalize_by(x, running_mean, running_var, w, b, o.eps, loc);
}

namespace {
const RegisterOp registered({
    .name = "batch_norm",
    .signature = "batch_norm(x, running_mean, running_var, weight, bias, options)",
    .formula = "(x - mean) / sqrt(var + eps) weight + bias over all axes but 1",
    .samples =
        [](DType t) {
          const auto with = [](bool training) {
            return [training](const std::vector<Tensor>& in) {
              const int64_t c = in[0].shape()[1];
              const State mean(samples::uniform({c}, DType::f32, 8)), var(samples::uniform({c}, DType::f32, 9, 0.5, 2));
              return std::vector<Tensor>{batch_norm(in[0], mean, var, in.size() > 1 ? in[1] : Tensor(),
                                                    in.size() > 2 ? in[2] : Tensor(), {.training = training})};
            };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({3, 2, 4, 5}, t, 1), uniform({2}, t, 2), uniform({2}, t, 3)}, with(true), "images"},
              {{channels_last({2, 3, 3, 2}, t, 1), strided({3}, t, 2)}, with(true), "channels last, no bias"},
              {{transposed({5, 3}, t, 1)}, with(true), "rank 2, transposed, no parameters"},
              {{strided({2, 1, 7}, t, 1), uniform({1}, t, 2), uniform({1}, t, 3)}, with(true), "one channel, strided"},
              {{uniform({3, 2, 4}, t, 1), uniform({2}, t, 2), uniform({2}, t, 3)}, with(false), "evaluation"},
              {{uniform({1, 4}, t, 1)}, with(false), "evaluation of one element a channel"},
          };
        },
});
}  // namespace

}  // namespace flame
