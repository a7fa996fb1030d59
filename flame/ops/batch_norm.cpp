// Batch norm: training normalises by the batch through the shared normalisation, evaluation by the running statistics.
#include "flame/ops/batch_norm.h"

#include "flame/autograd/autograd.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

void check_channels(const char* what, const Shape& s, int64_t channels, Loc loc) {
  if (s != Shape{channels}) fail<ShapeError>(loc, "batch_norm: expected a {} of shape [{}], got {}", what, channels, s);
}

// [C] as it broadcasts against [N, C, ...].
Tensor along_channels(const Tensor& v, int rank, Loc loc) {
  if (!v.defined()) return v;
  Shape s = Dims::filled(rank, 1);
  s[1] = v.numel();
  return v.reshape(s, loc);
}

// running = (1 - momentum) running + momentum fresh.
Tensor blended(const State& running, const Tensor& fresh, double momentum, Loc loc) {
  if (!running.defined()) return {};
  const Tensor old = running.tensor().detach().to(fresh.dtype(), loc);
  return (old * (1 - momentum) + fresh.reshape(old.shape(), loc) * momentum).to(running.dtype(), loc);
}
// Both are computed, and parted from who shares them, before either is written, so that running out of memory leaves both
// as they were.
void write_both(const State& mean, const Tensor& new_mean, const State& var, const Tensor& new_var, Loc loc) {
  if (new_mean.defined()) materialize(new_mean.value());
  if (new_var.defined()) materialize(new_var.value());
  if (new_mean.defined()) mean.begin_write(loc);
  if (new_var.defined()) var.begin_write(loc);
  if (new_mean.defined()) mean.assign(new_mean, loc);
  if (new_var.defined()) var.assign(new_var, loc);
}

}  // namespace

Tensor batch_norm(const Tensor& x, const State& running_mean, const State& running_var, const Tensor& weight,
                  const Tensor& bias, const BatchNormOptions& o, Loc loc) {
  check_inputs("batch_norm", {&x}, {&weight, &bias}, loc);
  for (const State* s : {&running_mean, &running_var})
    if (s->defined() && &s->device() != &x.device())
      fail<DeviceError>(loc, "batch_norm: expected running statistics on {}, got them on {}", x.device().name(),
                        s->device().name());
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "batch_norm: expected a floating dtype, got {}", x.dtype());
  if (x.rank() < 2) fail<ShapeError>(loc, "batch_norm: expected an input [N, C, ...], got {}", x.shape());
  const int64_t channels = x.shape()[1];
  if (running_mean.defined()) check_channels("running_mean", running_mean.shape(), channels, loc);
  if (running_var.defined()) check_channels("running_var", running_var.shape(), channels, loc);
  if (weight.defined()) check_channels("weight", weight.shape(), channels, loc);
  if (bias.defined()) check_channels("bias", bias.shape(), channels, loc);
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
    const Normalized n = normalize("batch_norm", x, axes, w, b, o.eps, loc);
    if (count == 0) return n.y;
    NoGrad guard;
    const Tensor unbiased = n.var * (static_cast<double>(count) / static_cast<double>(count - 1));
    write_both(running_mean, blended(running_mean, n.mean, o.momentum, loc), running_var,
               blended(running_var, unbiased, o.momentum, loc), loc);
    return n.y;
  }

  if (!running_mean.defined() || !running_var.defined())
    fail<ValueError>(loc, "batch_norm: evaluation needs running statistics, got none");
  const DType wide = compute_dtype_of(x.dtype());
  const Tensor m = along_channels(running_mean.tensor().detach().to(wide, loc), x.rank(), loc);
  const Tensor v = along_channels(running_var.tensor().detach().to(wide, loc), x.rank(), loc);
  Tensor y = mul(sub(x.to(wide, loc), m, loc), rsqrt(add(v, o.eps, loc), loc), loc);
  if (w.defined()) y = mul(y, w.to(wide, loc), loc);
  if (b.defined()) y = add(y, b.to(wide, loc), loc);
  return y.to(x.dtype(), loc);
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
