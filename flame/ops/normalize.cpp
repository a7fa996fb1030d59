// F.normalize and local response normalisation, composed.
#include "flame/ops/normalize.h"

#include <algorithm>
#include <cmath>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/cat.h"
#include "flame/ops/create.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {

Tensor normalize(const Tensor& x, const NormalizeOptions& o, Loc loc) {
  if (const AutocastCall cast{"normalize", {&x}}) return normalize(cast(x, loc), o, loc);
  const OpScope scope("normalize");
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "normalize: expected a floating dtype, got {}", x.dtype());
  const int axis = normalize_axis("normalize", o.axis, std::max(1, x.rank()), loc);
  if (x.numel() == 0) return x;
  const DType t = x.dtype();
  const Tensor in = x.to(compute_dtype_of(t), loc);
  return div(in, maximum(norm(in, axis, {.p = o.p, .keepdim = true}, loc), o.eps, loc), loc).to(t, loc);
}

Tensor local_response_norm(const Tensor& x, const LocalResponseNormOptions& o, Loc loc) {
  const OpScope scope("local_response_norm");
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "local_response_norm: expected a floating dtype, got {}", x.dtype());
  if (x.rank() < 3)
    fail<ShapeError>(loc, "local_response_norm: expected an input [N, C, ...] of rank 3 or more, got {}", x.shape());
  if (o.size < 1) fail<ValueError>(loc, "local_response_norm: expected a size of 1 or more, got {}", o.size);
  if (x.numel() == 0) return x;
  const DType t = x.dtype();
  const Tensor in = x.to(compute_dtype_of(t), loc), energy = square(in, loc);
  const int64_t channels = x.shape()[1];
  const auto nothing = [&](int64_t n) {
    Shape s = x.shape();
    s[1] = n;
    return zeros(s, in.dtype(), x.device(), loc);
  };
  const Tensor padded = cat({nothing(o.size / 2), energy, nothing((o.size - 1) / 2)}, 1, loc);
  Tensor total = padded.narrow(1, 0, channels, loc);
  for (int64_t i = 1; i < o.size; ++i) total = add(total, padded.narrow(1, i, channels, loc), loc);
  const double share = o.alpha / static_cast<double>(o.size);
  return div(in, pow(add(mul(total, share, loc), o.k, loc), o.beta, loc), loc).to(t, loc);
}

namespace {
const RegisterOp registered_normalize({
    .name = "normalize",
    .signature = "normalize(x, options)",
    .formula = "x / max((sum |x|^p)^(1/p), eps) along an axis",
    .samples =
        [](DType t) {
          const auto with = [](NormalizeOptions o) {
            return [o](const std::vector<Tensor>& in) { return std::vector<Tensor>{normalize(in[0], o)}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({3, 5}, t)}, with({}), "rows"},
              {{transposed({2, 3, 4}, t)}, with({.p = 1, .axis = -2}), "p = 1, middle axis, transposed"},
              {{strided({4, 3}, t, 1, 0.5, 2)}, with({.p = 3, .axis = 0}), "p = 3, strided"},
              {{uniform({0, 3}, t)}, with({}), "empty"},
          };
        },
});
const RegisterOp registered_response({
    .name = "local_response_norm",
    .signature = "local_response_norm(x, options)",
    .formula = "x / (k + alpha / size sum of x^2 over neighbouring channels)^beta",
    .samples =
        [](DType t) {
          const auto with = [](LocalResponseNormOptions o) {
            return [o](const std::vector<Tensor>& in) { return std::vector<Tensor>{local_response_norm(in[0], o)}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({2, 6, 3}, t)}, with({.size = 5, .alpha = 0.5}), "lines"},
              {{channels_last({2, 4, 2, 3}, t)}, with({.size = 2, .alpha = 1, .beta = 0.5, .k = 2}), "even size"},
              {{strided({1, 2, 4}, t)}, with({.size = 5, .alpha = 1}), "wider than the channels, strided"},
              {{uniform({0, 2, 3}, t)}, with({.size = 3}), "empty"},
          };
        },
});
}  // namespace

}  // namespace flame
