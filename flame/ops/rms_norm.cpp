// RMS norm: one island forward, or a kernel for rows on a GPU; the rule in closed form.
#include "flame/ops/rms_norm.h"

#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/row_norm_internal.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

double epsilon_of(DType t) {
  switch (t) {
    case DType::f16: return 0x1p-10;
    case DType::bf16: return 0x1p-7;
    case DType::f64: return 0x1p-52;
    default: return 0x1p-23;
  }
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Shape& normalized, const Tensor& weight, std::optional<double> eps, Loc loc) {
  const Dims axes = last_axes("rms_norm", x, normalized, loc);
  if (weight.defined() && weight.shape() != normalized)
    fail<ShapeError>(loc, "rms_norm: expected a weight of shape {}, got {}", normalized, weight.shape());
  const DType t = x.dtype(), wide = compute_dtype_of(t);
  const double e = eps.value_or(epsilon_of(t));
  const auto scale_of = [axes, e](const Tensor& x) { return rsqrt(mean(square(x), axes, true) + e); };
  std::optional<RowNorm> rows;
  if (x.device().kind() == Device::Kind::cuda) rows = row_norm_of(x, axes, weight, {});
  if (rows && backward_joins_island(*rows, x)) rows.reset();  // both ways
  if (rows) rows->rms = true;
  Tensor scale;  // by rows: the mean square
  const Tensor y = no_grad([&] {
    if (rows) {
      const RowNormResult r = row_norm(*rows, x, axes, weight, {}, e, loc);
      scale = r.var;
      return r.y;
    }
    const Tensor in = x.to(wide);
    scale = scale_of(in);
    const Tensor unit = in * scale;
    return (weight.defined() ? unit * weight.to(wide) : unit).to(t);
  });
  std::vector<Tensor> in{x}, saved{x, scale};
  if (weight.defined()) {
    in.push_back(weight);
    saved.push_back(weight);
  }
  const auto rule = [axes, scale_of, wide, normalized, rows, e, loc,
                     scaled = weight.defined()](const CustomContext& c) {
    if (rows && !c.create_graph) {
      const RowNormGradients g =
          row_norm_backward(*rows, c, c.saved[1], c.saved[1], scaled ? c.saved[2] : Tensor(), e, loc);
      std::vector<Tensor> out{g.dx};
      if (scaled) out.push_back(g.dweight.reshape(normalized, loc));
      return out;
    }
    const Tensor x = c.saved[0].to(wide), g = c.grads[0].to(wide);
    const Tensor scale = c.create_graph ? scale_of(x) : c.saved[1];
    const Tensor unit = x * scale;
    std::vector<Tensor> out(1);
    if (c.needs[0]) {
      const Tensor gw = scaled ? g * c.saved[2].to(wide) : g;
      out[0] = ((gw - unit * mean(gw * unit, axes, true)) * scale).to(c.saved[0].dtype());
    }
    if (scaled) out.push_back(c.needs[1] ? sum_to(g * unit, normalized).to(c.saved[2].dtype()) : Tensor());
    return out;
  };
  return with_rule("rms_norm", in, {y}, saved, rule, loc)[0];
}

namespace {
const RegisterOp registered({
    .name = "rms_norm",
    .signature = "rms_norm(x, normalized, weight, eps)",
    .formula = "x / sqrt(mean(x^2) + eps) weight over the last axes",
    .samples =
        [](DType t) {
          const auto over = [](Shape n) {
            return [n](const std::vector<Tensor>& in) {
              return std::vector<Tensor>{rms_norm(in[0], n, in.size() > 1 ? in[1] : Tensor(), 1e-5)};
            };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({3, 7}, t, 1), uniform({7}, t, 2)}, over({7}), "rows"},
              {{transposed({2, 4, 5}, t, 1), strided({4, 5}, t, 2)}, over({4, 5}), "two axes, strided"},
              {{strided({2, 3, 6}, t, 1)}, over({6}), "without a weight"},
              {{uniform({0, 4}, t, 1), uniform({4}, t, 2)}, over({4}), "no rows"},
          };
        },
});
}  // namespace

}  // namespace flame
