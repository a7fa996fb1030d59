// A linear layer and cross entropy over groups of rows, composed of those ops: at any time the logits of one group exist.
#include "flame/ops/linear_cross_entropy.h"

#include <algorithm>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/fuse/island.h"
#include "flame/ops/cat.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/composed_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/cross_entropy.h"
#include "flame/ops/cross_entropy_internal.h"
#include "flame/ops/linear.h"
#include "flame/ops/matmul.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/product_sum_internal.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

constexpr const char* op_name = "linear_cross_entropy";

// `row`: bytes of its logits.
int64_t rows_at_a_time(int64_t rows, int64_t row, int64_t asked) {
  constexpr int64_t most = int64_t{1} << 30;
  const int64_t limit = asked > 0 ? asked : std::max<int64_t>(1, most / row);
  const int64_t groups = std::max<int64_t>(1, (rows + limit - 1) / limit);
  return std::max<int64_t>(1, (rows + groups - 1) / groups);
}

// 0 where no row counts, so that no gradient becomes infinite; the loss is NaN then.
Tensor inverse(const Tensor& count, Loc loc) { return where(count > 0, reciprocal(count, loc), 0.0, loc); }

struct Pass {
  Tensor loss;    // summed over rows, in float32 or float64
  Tensor dx, dw;  // times `factor`, if it is defined and they are wanted
};
struct Wanted {
  bool dx;
  std::optional<DType> dw;
};
int64_t rows_at_a_time(const Tensor& x, const Tensor& weight, const LinearCrossEntropyOptions& o) {
  return rows_at_a_time(x.size(0), weight.size(0) * static_cast<int64_t>(size_of(x.dtype())), o.rows);
}
// x [rows, in], target [rows] of int64.
Pass each_group(const Tensor& x, const Tensor& weight, const Tensor& target, const LinearCrossEntropyOptions& o,
                const Tensor& factor, const Wanted& wanted, Loc loc) {
  const NoGrad no_graph;
  // What a group's own graph keeps goes through no hooks of the caller's: it is gone before this returns.
  const SavedTensorHooksScope kept(
      {[](const Tensor& t) { return std::any(t); }, [](const std::any& t) { return std::any_cast<const Tensor&>(t); }});
  const CrossEntropyOptions sums{
      .ignore_index = o.ignore_index, .label_smoothing = o.label_smoothing, .reduction = Reduction::sum};
  const int64_t rows = x.size(0), each = rows_at_a_time(x, weight, o);
  Pass all;
  std::vector<Tensor> dx;
  for (int64_t at = 0; at == 0 || at < rows; at += each) {
    const int64_t n = std::min(each, rows - at);
    const Tensor own = x.detach().narrow(0, at, n, loc), classes = target.narrow(0, at, n, loc);
    Tensor logits = linear(own, weight.detach(), {}, {}, loc);
    const auto add_loss = [&](const Tensor& loss) { all.loss = all.loss.defined() ? all.loss + loss : loss; };
    if (!factor.defined()) {
      add_loss(wide_cross_entropy(op_name, logits, classes, sums, loc));
      continue;
    }
    const auto [loss, slope] = cross_entropy_with_gradient(op_name, std::move(logits), classes, sums, factor, loc);
    add_loss(loss);
    if (wanted.dx) dx.push_back(matmul(slope, weight.detach(), loc));
    if (!wanted.dw) continue;
    if (each >= rows) all.dw = matmul(slope.t(loc), own, loc);
    else all.dw = add_product(std::move(all.dw), slope.t(loc), own, loc);
  }
  if (all.dw.defined()) all.dw = all.dw.to(*wanted.dw);
  if (!dx.empty()) all.dx = dx.size() == 1 ? dx[0] : cat(dx, 0, loc);
  return all;
}

// x [rows, in] and weight of one dtype, target [rows]. `source`: what the weight is, or has been cast from if its
// gradient goes there without being rounded to the weight's dtype.
Tensor over_groups(const Tensor& x, const Tensor& weight, const Tensor& source, const Tensor& target,
                   const LinearCrossEntropyOptions& o, Loc loc) {
  const DType wide = compute_dtype_of(x.dtype());
  const Tensor in[] = {x, source};
  const bool graph = any_requires_grad(in), later = x.dtype() == DType::f16;
  Pass pass;
  Tensor loss, count;
  {
    const NoGrad no_graph;
    count = o.reduction == Reduction::mean ? sum(ne(target, o.ignore_index, loc).to(wide, loc), {}, false, loc)
                                           : ones({}, wide, x.device());
    const Wanted wanted{x.requires_grad(), source.requires_grad() ? std::optional(source.dtype()) : std::nullopt};
    pass = each_group(x, weight, target, o, graph && !later ? inverse(count, loc) : Tensor(), wanted, loc);
    loss = pass.loss / count;
  }
  if (!graph) return loss;
  // The weight as it is multiplied with, from which a graph leads to the source.
  const auto rule = [o, later, to = source.dtype(), loc](const CustomContext& c) -> std::vector<Tensor> {
    const Tensor &x = c.saved[0], &weight = c.saved[1], &target = c.saved[2], &count = c.saved[3], &g = c.grads[0];
    if (c.create_graph) {  // only from the loss to the logits, whose node is this rule's alone
      const CrossEntropyOptions sums{
          .ignore_index = o.ignore_index, .label_smoothing = o.label_smoothing, .reduction = Reduction::sum};
      const Tensor logits = linear(x, weight, {}, {}, loc);
      const Tensor y = wide_cross_entropy(op_name, logits, target, sums, loc) * inverse(count, loc);
      const Tensor slope = grad({y}, {logits}, {.grad_outputs = {g}, .create_graph = true})[0];
      return {c.needs[0] ? matmul(slope, weight, loc) : Tensor(),
              c.needs[1] ? matmul(slope.t(loc), x, loc).to(to, loc) : Tensor()};
    }
    if (later) {
      const Wanted wanted{c.needs[0], c.needs[1] ? std::optional(to) : std::nullopt};
      const Pass again = each_group(x, weight, target, o, g * inverse(count, loc), wanted, loc);
      return {again.dx, again.dw};
    }
    std::vector<Tensor> out(2);
    const bool whole = is_pending_one(g.value_ref());
    for (size_t i = 0; i < 2; ++i)
      if (const Tensor& d = c.saved[4 + i]; c.needs[i] && d.defined())
        out[i] = whole ? d : (d.to(g.dtype()) * g).to(d.dtype());
    return out;
  };
  return with_rule(op_name, in, {loss}, {x, weight, target, count, pass.dx, pass.dw}, rule, loc)[0];
}

// The op, `weight` being `source` cast by autocast or not at all.
Tensor checked(const Tensor& x, const Tensor& weight, const Tensor& source, const Tensor& target,
               const LinearCrossEntropyOptions& o, Loc loc) {
  const OpScope scope(op_name);
  check_inputs(op_name, {&x, &weight, &target}, {}, loc);
  check_floating(op_name, x, loc);
  check_floating(op_name, weight, loc);
  if (weight.rank() != 2 || weight.size(0) == 0)
    fail<ShapeError>(loc, "{}: expected a weight [classes, in] of at least one class, got {}", op_name, weight.shape());
  if (x.rank() == 0 || x.shape().back() != weight.shape()[1])
    fail<ShapeError>(loc, "{}: expected x [..., {}] for weight {}, got {}", op_name, weight.shape()[1], weight.shape(),
                     x.shape());
  if (target.dtype() != DType::i64 && target.dtype() != DType::i32)
    fail<DTypeError>(loc, "{}: expected targets of int64 or int32, got {}", op_name, target.dtype());
  Shape outer = x.shape();
  outer.erase(outer.rank() - 1);
  if (target.shape() != outer)
    fail<ShapeError>(loc, "{}: x {} needs targets of shape {}, got {}", op_name, x.shape(), outer, target.shape());
  if (o.reduction != Reduction::mean && o.reduction != Reduction::sum)
    fail<ValueError>(loc, "{}: expected a reduction by mean or sum", op_name);
  if (!(o.label_smoothing >= 0 && o.label_smoothing <= 1))
    fail<ValueError>(loc, "{}: expected a label smoothing in [0, 1], got {}", op_name, o.label_smoothing);
  if (o.rows < 0) fail<ValueError>(loc, "{}: expected 0 or more rows at a time, got {}", op_name, o.rows);
  const DType t = promote(x.dtype(), weight.dtype());
  const int64_t rows = numel(outer);
  const Tensor flat = x.to(t, loc).reshape({rows, x.shape().back()}, loc), w = weight.to(t, loc);
  // One group's product is rounded as it is written, and several where they are not added up by their launches.
  const bool sums = w.device().fuses() && source.dtype() == compute_dtype_of(t) && rows_at_a_time(flat, w, o) < rows;
  return over_groups(flat, w, sums ? source : w, target.to(DType::i64, loc).reshape({rows}, loc), o, loc);
}

}  // namespace

Tensor linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& target,
                            const LinearCrossEntropyOptions& o, Loc loc) {
  if (const AutocastCall cast{"linear_cross_entropy", {&x, &weight}})
    return checked(cast(x, loc), cast(weight, loc), weight, target, o, loc);
  return checked(x, weight, weight, target, o, loc);
}

namespace {
const RegisterOp registered({
    .name = op_name,
    .signature = "linear_cross_entropy(x, weight, target, options)",
    .formula = "cross_entropy(linear(x, weight), target)",
    .samples =
        [](DType t) {
          using Inputs = std::vector<Tensor>;
          using namespace samples;
          const auto fn = [](const LinearCrossEntropyOptions& o = {}) {
            return [o](const Inputs& in) { return Inputs{linear_cross_entropy(in[0], in[1], in[2], o)}; };
          };
          const Tensor some = Tensor::from(std::vector<int64_t>{1, -100, 4, 0, -100, 3}, {6});
          return std::vector<SampleCase>{
              {{uniform({6, 3}, t, 1), uniform({5, 3}, t, 2), classes({6}, 5)}, fn(), "mean", 2},
              {{transposed({6, 3}, t, 1), strided({5, 3}, t, 2), some},
               fn({.label_smoothing = 0.2, .rows = 4}),
               "smoothed, some ignored, two groups",
               2},
              {{uniform({2, 3, 4}, t, 1), transposed({5, 4}, t, 2), classes({2, 3}, 5)},
               fn({.reduction = Reduction::sum, .rows = 1}),
               "sum, a group a row",
               2},
              {{uniform({4}, t, 1), uniform({3, 4}, t, 2), classes({}, 3)}, fn(), "one row", 2},
              {{uniform({0, 4}, t, 1), uniform({3, 4}, t, 2), classes({0}, 3)},
               fn({.reduction = Reduction::sum}),
               "no rows",
               2},
          };
        },
});
}  // namespace

}  // namespace flame
