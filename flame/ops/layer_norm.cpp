// Layer norm: checks, and the shared normalisation over the last axes.
#include "flame/ops/layer_norm.h"

#include "flame/autograd/autocast_ops.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/samples_internal.h"

namespace flame {

Tensor layer_norm(const Tensor& x, const Shape& normalized, const Tensor& weight, const Tensor& bias, double eps,
                  Loc loc) {
  if (const AutocastCall cast{"layer_norm", {&x, &weight, &bias}})
    return layer_norm(cast(x, loc), normalized, cast(weight, loc), cast(bias, loc), eps, loc);
  check_inputs("layer_norm", {&x}, {&weight, &bias}, loc);
  const Dims axes = last_axes("layer_norm", x, normalized, loc);
  for (const Tensor* p : {&weight, &bias})
    if (p->defined() && p->shape() != normalized)
      fail<ShapeError>(loc, "layer_norm: expected a {} of shape {}, got {}", p == &weight ? "weight" : "bias",
                       normalized, p->shape());
  return normalize("layer_norm", x, axes, weight, bias, eps, loc).y;
}

namespace {
const RegisterOp registered({
    .name = "layer_norm",
    .signature = "layer_norm(x, normalized, weight, bias, eps)",
    .formula = "(x - mean) / sqrt(var + eps) weight + bias over the last axes",
    .samples =
        [](DType t) {
          const auto over = [](Shape n) {
            return [n](const std::vector<Tensor>& in) {
              return std::vector<Tensor>{
                  layer_norm(in[0], n, in.size() > 1 ? in[1] : Tensor(), in.size() > 2 ? in[2] : Tensor())};
            };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({3, 7}, t, 1), uniform({7}, t, 2), uniform({7}, t, 3)}, over({7}), "rows"},
              {{transposed({2, 4, 5}, t, 1), strided({4, 5}, t, 2)}, over({4, 5}), "two axes, strided, no bias"},
              {{strided({2, 3, 6}, t, 1)}, over({6}), "without parameters"},
              {{uniform({0, 4}, t, 1), uniform({4}, t, 2), uniform({4}, t, 3)}, over({4}), "no rows"},
          };
        },
});
}  // namespace

}  // namespace flame
