// Normalisation by mean and variance: dense rows by a kernel of their own, the rest and second derivatives composed of
// island ops, in closed form.
#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/ops/channel_norm_internal.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/row_norm_internal.h"

namespace flame {
namespace {

struct Statistics {
  Tensor mean, var, scale;  // scale = 1 / sqrt(var + eps)
};
Statistics statistics(const Tensor& x, const Dims& axes, double eps) {
  const Tensor m = mean(x, axes, true);
  const Tensor v = mean(square(x - m), axes, true);
  return {m, v, rsqrt(v + eps)};
}

void check_channel(const char* name, const char* what, const Shape& s, int64_t channels, Loc loc) {
  if (s != Shape{channels}) fail<ShapeError>(loc, "{}: expected a {} of shape [{}], got {}", name, what, channels, s);
}

// The running value moved towards `fresh` by `momentum`, a number or a tensor.
template <class M>
Tensor blended(const State& running, const Tensor& fresh, const M& momentum, Loc loc) {
  if (!running.defined()) return {};
  const Tensor old = running.tensor().detach().to(fresh.dtype(), loc);
  return (old * (1 - momentum) + fresh.reshape(old.shape(), loc) * momentum).to(running.dtype(), loc);
}

}  // namespace

Dims last_axes(const char* name, const Tensor& x, const Shape& normalized, Loc loc) {
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", name, x.dtype());
  const int first = x.rank() - normalized.rank();
  bool fits = first >= 0 && !normalized.empty();
  for (int i = 0; fits && i < normalized.rank(); ++i) fits = x.shape()[first + i] == normalized[i];
  if (!fits)
    fail<ShapeError>(loc, "{}: expected an input whose last sizes are {}, got {}", name, normalized, x.shape());
  Dims axes;
  for (int i = first; i < x.rank(); ++i) axes.push_back(i);
  return axes;
}

void check_channels(const char* name, const Tensor& x, const State& running_mean, const State& running_var,
                    const Tensor& weight, const Tensor& bias, Loc loc) {
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", name, x.dtype());
  if (x.rank() < 2) fail<ShapeError>(loc, "{}: expected an input [N, C, ...], got {}", name, x.shape());
  const int64_t channels = x.shape()[1];
  if (running_mean.defined()) check_channel(name, "running_mean", running_mean.shape(), channels, loc);
  if (running_var.defined()) check_channel(name, "running_var", running_var.shape(), channels, loc);
  if (weight.defined()) check_channel(name, "weight", weight.shape(), channels, loc);
  if (bias.defined()) check_channel(name, "bias", bias.shape(), channels, loc);
}

Tensor along_channels(const Tensor& v, int rank, Loc loc) {
  if (!v.defined()) return v;
  Shape s = Dims::filled(rank, 1);
  s[1] = v.numel();
  return v.reshape(s, loc);
}

void update_running(const State& mean, const Tensor& fresh_mean, const State& var, const Tensor& fresh_var,
                    std::optional<double> momentum, const State& batches, Loc loc) {
  NoGrad guard;
  const Tensor count = batches.defined() ? batches.tensor() + 1 : Tensor();
  const auto moved = [&](const State& running, const Tensor& fresh) {
    return momentum ? blended(running, fresh, *momentum, loc)
                    : blended(running, fresh, reciprocal(count.to(fresh.dtype(), loc), loc), loc);
  };
  const std::pair<const State&, Tensor> all[] = {
      {mean, moved(mean, fresh_mean)}, {var, moved(var, fresh_var)}, {batches, count}};
  for (const auto& [state, value] : all)
    if (value.defined()) materialize(value.value());
  for (const auto& [state, value] : all)
    if (value.defined()) state.begin_write(loc);  // parts those who share the old bytes, which asks for memory
  for (const auto& [state, value] : all)
    if (value.defined()) state.assign(value, loc);
}

Tensor normalize_by(const Tensor& x, const State& mean, const State& var, const Tensor& weight, const Tensor& bias,
                    double eps, Loc loc) {
  const DType wide = compute_dtype_of(x.dtype());
  const Tensor m = along_channels(mean.tensor().detach().to(wide, loc), x.rank(), loc);
  const Tensor v = along_channels(var.tensor().detach().to(wide, loc), x.rank(), loc);
  Tensor y = mul(sub(x.to(wide, loc), m, loc), rsqrt(add(v, eps, loc), loc), loc);
  if (weight.defined()) y = mul(y, weight.to(wide, loc), loc);
  if (bias.defined()) y = add(y, bias.to(wide, loc), loc);
  return y.to(x.dtype(), loc);
}

Normalized normalize(const char* name, const Tensor& x, const Dims& axes, const Tensor& weight, const Tensor& bias,
                     double eps, Loc loc, const MomentsSeen& seen) {
  const DType t = x.dtype(), wide = compute_dtype_of(t);
  const std::optional<RowNorm> rows = row_norm_of(x, axes, weight, bias);
  const bool joins = rows && joins_island(*rows, x), by_channel = !rows && sums_by_channel(x, axes);
  const bool by_kernel = rows && !backward_joins_island(*rows, x);  // the backward
  Statistics s;
  const Tensor y = no_grad([&]() -> Tensor {
    if (rows && !joins) {
      const RowNormResult r = row_norm(*rows, x, axes, weight, bias, eps, loc);
      s = {r.mean, r.var, r.var};
      if (seen) seen(s.mean, s.var);
      return r.y;
    }
    if (by_channel) {
      const ChannelSums m = channel_moments(x, loc);
      s = {m.first, m.second, rsqrt(m.second + eps)};
      if (seen) seen(s.mean, s.var);  // which runs what is pending: before there is more
    }
    const Tensor in = x.to(wide);
    if (!by_channel) s = statistics(in, axes, eps);
    Tensor out = (in - s.mean) * s.scale;
    if (weight.defined()) out = out * weight.to(wide);
    if (bias.defined()) out = out + bias.to(wide);
    out = out.to(t);
    if (seen && !by_channel) seen(s.mean, s.var);
    return out;
  });

  std::vector<Tensor> in{x}, saved{x, s.mean, by_kernel ? s.var : s.scale};
  if (weight.defined()) {
    in.push_back(weight);
    saved.push_back(weight);
  }
  if (bias.defined()) in.push_back(bias);
  const Shape of_weight = weight.defined() ? weight.shape() : Shape(),
              of_bias = bias.defined() ? bias.shape() : Shape();
  const DType bias_dtype = bias.defined() ? bias.dtype() : wide;
  const auto rule = [rows, by_kernel, by_channel, axes, eps, wide, of_weight, of_bias, bias_dtype, loc,
                     scaled = weight.defined(),
                     shifted = bias.defined()](const CustomContext& c) -> std::vector<Tensor> {
    if (by_kernel && !c.create_graph) {
      const RowNormGradients g =
          row_norm_backward(*rows, c, c.saved[1], c.saved[2], scaled ? c.saved[3] : Tensor(), eps, loc);
      std::vector<Tensor> out{g.dx};
      if (scaled) out.push_back(g.dweight.reshape(of_weight));
      if (shifted) out.push_back(g.dbias.reshape(of_bias));
      return out;
    }
    if (by_channel && !c.create_graph) {  // the sums first: they run what is pending
      const Tensor& x = c.saved[0];
      const Tensor own = c.grads[0].to(x.dtype());
      const ChannelSums sums = channel_slopes(x, own, c.saved[1], c.saved[2], loc);
      const double part = static_cast<double>(sums.first.numel()) / static_cast<double>(x.numel());
      const Tensor by = scaled ? c.saved[2] * c.saved[3].to(wide) : c.saved[2];  // small ones before, so that the large
      const Tensor plain = sums.first * part, along = sums.second * part;        // ones are one launch
      const Tensor unit = (x.to(wide) - c.saved[1]) * c.saved[2];
      std::vector<Tensor> out{(((own.to(wide) - plain) - unit * along) * by).to(x.dtype())};
      if (scaled) out.push_back(sums.second.reshape(of_weight).to(c.saved[3].dtype()));
      if (shifted) out.push_back(sums.first.reshape(of_bias).to(bias_dtype));
      return out;
    }
    const Tensor x = c.saved[0].to(wide), g = c.grads[0].to(wide);
    Tensor m = c.saved[1], scale = c.saved[2];
    if (c.create_graph) {  // the statistics as functions of x
      const Statistics again = statistics(x, axes, eps);
      m = again.mean;
      scale = again.scale;
    }
    const Tensor unit = (x - m) * scale;
    std::vector<Tensor> out(1);
    if (c.needs[0]) {
      const Tensor gw = scaled ? g * c.saved[3].to(wide) : g;
      out[0] = ((gw - mean(gw, axes, true)) - unit * mean(gw * unit, axes, true)) * scale;
      out[0] = out[0].to(c.saved[0].dtype());
    }
    if (scaled) out.push_back(c.needs[1] ? sum_to(g * unit, of_weight).to(c.saved[3].dtype()) : Tensor());
    if (shifted) out.push_back(c.needs.back() ? sum_to(g, of_bias).to(bias_dtype) : Tensor());
    return out;
  };
  return {with_rule(name, in, {y}, saved, rule, loc)[0], s.mean, s.var};
}

}  // namespace flame
