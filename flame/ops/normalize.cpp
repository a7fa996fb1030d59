// Normalisation by mean and variance, composed of island ops, with first and second derivatives in closed form.
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

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

}  // namespace

Normalized normalize(const char* name, const Tensor& x, const Dims& axes, const Tensor& weight, const Tensor& bias,
                     double eps, Loc loc) {
  const DType t = x.dtype(), wide = compute_dtype_of(t);
  Statistics s;
  const Tensor y = no_grad([&] {
    const Tensor in = x.to(wide);
    s = statistics(in, axes, eps);
    Tensor out = (in - s.mean) * s.scale;
    if (weight.defined()) out = out * weight.to(wide);
    if (bias.defined()) out = out + bias.to(wide);
    return out.to(t);
  });

  std::vector<Tensor> in{x}, saved{x, s.mean, s.scale};
  if (weight.defined()) {
    in.push_back(weight);
    saved.push_back(weight);
  }
  if (bias.defined()) in.push_back(bias);
  const Shape of_weight = weight.defined() ? weight.shape() : Shape(),
              of_bias = bias.defined() ? bias.shape() : Shape();
  const DType bias_dtype = bias.defined() ? bias.dtype() : wide;
  const auto rule = [axes, eps, wide, of_weight, of_bias, bias_dtype, scaled = weight.defined(),
                     shifted = bias.defined()](const CustomContext& c) -> std::vector<Tensor> {
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
