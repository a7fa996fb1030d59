// Similarities and distances of vectors, composed of pointwise ops and reductions: a pass over the rows each way.
#include "flame/ops/distance.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/op_scope.h"
#include "flame/ops/composed_internal.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

// The inputs' promoted dtype, and the one that is computed in.
struct Types {
  DType out, wide;
};
Types types_of(const char* op, std::initializer_list<const Tensor*> in, Loc loc) {
  check_inputs(op, in, loc);
  for (const Tensor* t : in) check_floating(op, *t, loc);
  DType out = (*in.begin())->dtype();
  for (const Tensor* t : in) out = promote(out, t->dtype());
  return {out, compute_dtype_of(out)};
}

// The p-norm along the last axis of a - b + eps.
Tensor distance(const Tensor& a, const Tensor& b, double p, double eps, bool keepdim, Loc loc) {
  return norm(add(sub(a, b, loc), eps, loc), -1, {.p = p, .keepdim = keepdim}, loc);
}
void check_vectors(const char* op, const Shape& shape, double p, Loc loc) {
  if (shape.empty()) fail<ShapeError>(loc, "{}: expected vectors of rank 1 or more, got 0-d ones", op);
  if (!(p > 0)) fail<ValueError>(loc, "{}: expected a p above 0, got {}", op, p);
  if (p == inf && shape.back() == 0)
    fail<ShapeError>(loc, "{}: expected vectors that are not empty, got {}", op, shape);
}

}  // namespace

Tensor cosine_similarity(const Tensor& a, const Tensor& b, int64_t axis, double eps, Loc loc) {
  if (const AutocastCall cast{"cosine_similarity", {&a, &b}})
    return cosine_similarity(cast(a, loc), cast(b, loc), axis, eps, loc);
  const OpScope scope("cosine_similarity");
  const Types t = types_of("cosine_similarity", {&a, &b}, loc);
  const Shape shape = common_shape("cosine_similarity", {&a, &b}, loc);
  const int along = normalize_axis("cosine_similarity", axis, std::max(1, shape.rank()), loc);
  const Tensor x = a.to(t.wide, loc).expand(shape, loc), y = b.to(t.wide, loc).expand(shape, loc);
  const auto size = [&](const Tensor& v) { return maximum(norm(v, along, false, loc), eps, loc); };
  return div(sum(mul(x, y, loc), along, false, loc), mul(size(x), size(y), loc), loc).to(t.out, loc);
}

Tensor pairwise_distance(const Tensor& a, const Tensor& b, const DistanceOptions& o, Loc loc) {
  if (const AutocastCall cast{"pairwise_distance", {&a, &b}})
    return pairwise_distance(cast(a, loc), cast(b, loc), o, loc);
  const OpScope scope("pairwise_distance");
  const Types t = types_of("pairwise_distance", {&a, &b}, loc);
  check_vectors("pairwise_distance", common_shape("pairwise_distance", {&a, &b}, loc), o.p, loc);
  return distance(a.to(t.wide, loc), b.to(t.wide, loc), o.p, o.eps, o.keepdim, loc).to(t.out, loc);
}

Tensor cosine_embedding_loss(const Tensor& a, const Tensor& b, const Tensor& target, const CosineEmbeddingOptions& o,
                             Loc loc) {
  if (const AutocastCall cast{"cosine_embedding_loss", {&a, &b}})
    return cosine_embedding_loss(cast(a, loc), cast(b, loc), target, o, loc);
  const OpScope scope("cosine_embedding_loss");
  constexpr const char* name = "cosine_embedding_loss";
  check_reduction(name, o.reduction, loc);
  check_inputs(name, {&a, &b, &target}, loc);
  const Types t = types_of(name, {&a, &b}, loc);
  if (a.shape() != b.shape() || a.rank() < 1 || a.rank() > 2)
    fail<ShapeError>(loc, "{}: expected two inputs [N, D] or [D], got {} and {}", name, a.shape(), b.shape());
  Shape rows = a.shape();
  rows.erase(rows.rank() - 1);
  if (target.shape() != rows)
    fail<ShapeError>(loc, "{}: inputs {} need targets of shape {}, got {}", name, a.shape(), rows, target.shape());
  const Tensor x = a.to(t.wide, loc), y = b.to(t.wide, loc);
  constexpr double tiny = 1e-12;  // PyTorch's
  const auto size = [&](const Tensor& v) { return add(sum(square(v, loc), -1, false, loc), tiny, loc); };
  const Tensor sizes = sqrt(mul(size(x), size(y), loc), loc);
  const Tensor cosine = div(sum(mul(x, y, loc), -1, false, loc), sizes, loc);
  const Tensor apart = clamp(sub(cosine, o.margin, loc), 0.0, inf, loc);
  const Tensor other = where(eq(target, -1, loc), apart, 0.0, loc);
  return reduced(where(eq(target, 1, loc), sub(1, cosine, loc), other, loc), o.reduction, loc).to(t.out, loc);
}

Tensor triplet_margin_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative,
                           const TripletMarginOptions& o, Loc loc) {
  if (const AutocastCall cast{"triplet_margin_loss", {&anchor, &positive, &negative}})
    return triplet_margin_loss(cast(anchor, loc), cast(positive, loc), cast(negative, loc), o, loc);
  const OpScope scope("triplet_margin_loss");
  constexpr const char* name = "triplet_margin_loss";
  check_reduction(name, o.reduction, loc);
  if (!(o.margin > 0)) fail<ValueError>(loc, "{}: expected a margin above 0, got {}", name, o.margin);
  const Types t = types_of(name, {&anchor, &positive, &negative}, loc);
  if (anchor.rank() != positive.rank() || anchor.rank() != negative.rank())
    fail<ShapeError>(loc, "{}: expected equal ranks, got {}, {} and {}", name, anchor.shape(), positive.shape(),
                     negative.shape());
  check_vectors(name, common_shape(name, {&anchor, &positive, &negative}, loc), o.p, loc);
  const Tensor a = anchor.to(t.wide, loc), p = positive.to(t.wide, loc), n = negative.to(t.wide, loc);
  const auto between = [&](const Tensor& x, const Tensor& y) { return distance(x, y, o.p, o.eps, false, loc); };
  Tensor far = between(a, n);
  if (o.swap) far = minimum(far, between(p, n), loc);
  const Tensor excess = add(sub(between(a, p), far, loc), o.margin, loc);
  return reduced(clamp(excess, 0.0, inf, loc), o.reduction, loc).to(t.out, loc);
}

namespace {
using Inputs = std::vector<Tensor>;

const RegisterOp registered_cosine({
    .name = "cosine_similarity",
    .signature = "cosine_similarity(a, b, axis, eps)",
    .formula = "a.b / (|a| |b|)",
    .samples =
        [](DType t) {
          const auto along = [](int64_t axis) {
            return [axis](const Inputs& in) { return Inputs{cosine_similarity(in[0], in[1], axis)}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({3, 5}, t, 1), uniform({3, 5}, t, 2)}, along(1), "rows"},
              {{transposed({4, 3}, t, 1), strided({1, 3}, t, 2)}, along(0), "columns, broadcast"},
              {{uniform({2, 3, 4}, t, 1), uniform({3, 4}, t, 2)}, along(-2), "middle axis"},
              {{uniform({0, 3}, t, 1), uniform({3}, t, 2)}, along(1), "no rows"},
          };
        },
});
const RegisterOp registered_distance({
    .name = "pairwise_distance",
    .signature = "pairwise_distance(a, b, options)",
    .formula = "|a - b + eps|",
    .samples =
        [](DType t) {
          const auto of = [](double p, bool keepdim = false) {
            return
                [=](const Inputs& in) { return Inputs{pairwise_distance(in[0], in[1], {.p = p, .keepdim = keepdim})}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({3, 5}, t, 1), uniform({3, 5}, t, 2)}, of(2), "rows"},
              {{transposed({4, 3}, t, 1), strided({4, 3}, t, 2)}, of(1, true), "sum of absolutes"},
              {{uniform({2, 3, 4}, t, 1), uniform({3, 1}, t, 2)}, of(3), "third powers, broadcast"},
              {{uniform({3, 4}, t, 1), uniform({4}, t, 2)}, of(inf), "largest"},
              {{uniform({0, 3}, t, 1), uniform({3}, t, 2)}, of(2), "no rows"},
          };
        },
});
const RegisterOp registered_cosine_loss({
    .name = "cosine_embedding_loss",
    .signature = "cosine_embedding_loss(a, b, target, options)",
    .formula = "1 - cos(a, b) for target 1, max(0, cos(a, b) - margin) for -1",
    .samples =
        [](DType t) {
          const auto with = [](Reduction r) {
            return [r](const Inputs& in) {
              return Inputs{cosine_embedding_loss(in[0], in[1], in[2], {.margin = -0.9, .reduction = r})};
            };
          };
          using namespace samples;
          const Tensor signs = Tensor::from(std::vector<int64_t>{1, -1, -1, 1}, {4});
          return std::vector<SampleCase>{
              {{uniform({4, 5}, t, 1), uniform({4, 5}, t, 2), signs}, with(Reduction::mean), "mean", 2},
              {{transposed({4, 3}, t, 1), strided({4, 3}, t, 2), signs}, with(Reduction::none), "mixed layouts", 2},
              {{uniform({6}, t, 1), uniform({6}, t, 2), signs.select(0, 1)}, with(Reduction::sum), "one pair", 2},
          };
        },
});
const RegisterOp registered_triplet({
    .name = "triplet_margin_loss",
    .signature = "triplet_margin_loss(anchor, positive, negative, options)",
    .formula = "max(0, margin + |a - p| - |a - n|)",
    .samples =
        [](DType t) {
          const auto with = [](TripletMarginOptions o) {
            return [o](const Inputs& in) { return Inputs{triplet_margin_loss(in[0], in[1], in[2], o)}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({4, 5}, t, 1), uniform({4, 5}, t, 2), uniform({4, 5}, t, 3)}, with({.margin = 5}), "mean"},
              {{transposed({4, 3}, t, 1), strided({4, 3}, t, 2), uniform({1, 3}, t, 3)},
               with({.margin = 5, .swap = true, .reduction = Reduction::none}),
               "swapped, broadcast"},
              {{uniform({6}, t, 1), uniform({6}, t, 2), uniform({6}, t, 3)},
               with({.margin = 7, .p = 1, .reduction = Reduction::sum}),
               "one triplet"},
          };
        },
});
}  // namespace

}  // namespace flame
