// Dropout: a pending value that joins whatever island x is in. No mask is kept: backward draws the same words again.
#include "flame/ops/dropout.h"

#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/fuse/island.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/samples_internal.h"

namespace flame {

namespace {

struct Kept {
  Draw draw;
  uint32_t last;  // the highest word that keeps an element
  double scale;
};
Tensor drop(const Tensor& x, const Kept& k, Loc loc) {
  const Tensor y(pend_dropout(x.value_ref(), k.draw, k.last, k.scale, loc));
  const Rule rule = [k, loc](const CustomContext& c) { return std::vector<Tensor>{drop(c.grads[0], k, loc)}; };
  return with_rule("dropout", {&x, 1}, {y}, {}, rule, loc)[0];
}

}  // namespace

Tensor dropout(const Tensor& x, double p, bool training, Generator* generator, Loc loc) {
  const OpScope scope("dropout");
  if (!(p >= 0 && p <= 1)) fail<ValueError>(loc, "dropout: expected a probability in [0, 1], got {}", p);
  check_defined("dropout", x, loc);
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "dropout: expected a floating dtype, got {}", x.dtype());
  if (!training || p == 0) return x;
  const Draw draw(generator ? *generator : default_generator());
  const auto kept = static_cast<uint64_t>((1 - p) * 0x1p32);  // words below it
  if (kept == 0) return where(filled(contiguous_meta(DType::boolean, {}), x.device(), 0), x, 0.0, loc);
  return drop(x, {draw, static_cast<uint32_t>(kept - 1), 1 / (1 - p)}, loc);
}

namespace {
const RegisterOp registered({
    .name = "dropout",
    .signature = "dropout(x, p, training, generator)",
    .formula = "x / (1 - p) where kept, else 0",
    .samples =
        [](DType t) {
          const auto with = [](double p) {
            return [p](const std::vector<Tensor>& in) {
              Generator g(7);  // the same mask at every call, so that differences can be taken
              return std::vector<Tensor>{dropout(in[0], p, true, &g)};
            };
          };
          return std::vector<SampleCase>{
              {{samples::uniform({5, 7}, t)}, with(0.3), "ragged"},
              {{samples::transposed({4, 6}, t)}, with(0.5), "transposed"},
              {{samples::strided({3, 5}, t)}, with(0.1), "strided"},
              {{samples::uniform({}, t)}, with(0.5), "0-d"},
              {{samples::uniform({0, 3}, t)}, with(0.5), "empty"},
              {{samples::uniform({9}, t)}, with(0.0), "p = 0"},
              {{samples::uniform({9}, t)}, with(1.0), "p = 1"},
          };
        },
});
}  // namespace

}  // namespace flame
