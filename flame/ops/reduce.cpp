// Reductions with gradients: one graph node a call, the forward pass as island ops that fuse with what surrounds them.
#include "flame/ops/reduce.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/fuse/island.h"
#include "flame/ops/cat.h"
#include "flame/ops/create.h"
#include "flame/ops/pointwise_internal.h"
#include "flame/ops/reduce_internal.h"

namespace flame {

ReducedAxes reduced_axes(const char* op, const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  check_defined(op, x, loc);
  ReducedAxes r;
  const Shape& s = x.shape();
  if (axes.all()) r.mask = (1u << s.rank()) - 1;
  for (int64_t axis : axes.list()) {
    const uint32_t bit = 1u << normalize_axis(op, axis, std::max(1, s.rank()), loc);  // a number is a row of one
    if (r.mask & bit) fail<ValueError>(loc, "{}: axis {} is named twice in {}", op, axis, axes.list());
    r.mask |= bit;
  }
  if (s.empty()) r.mask = 0;
  for (int i = 0; i < s.rank(); ++i) {
    const bool gone = r.mask >> i & 1;
    if (gone) r.count *= s[i];
    r.kept.push_back(gone ? 1 : s[i]);
    if (!gone || keepdim) r.out.push_back(r.kept[i]);
  }
  return r;
}

namespace {

// What a rule sees: float32 or float64 tensors, g and y with the reduced axes as size 1.
struct Reduced {
  Tensor g, x, y;
  const Shape& shape;  // of the input
  const Dims& axes;
  double number;  // a rule's own: the divisor of a mean, the order of a norm
};
using Rule = Tensor (*)(const Reduced&);
enum Saves : uint8_t { nothing = 0, input = 1, output = 2, both = 3 };

bool is_narrow(DType t) { return t == DType::f16 || t == DType::bf16; }
Tensor widened(const Tensor& x, Loc loc) { return is_narrow(x.dtype()) ? x.to(DType::f32, loc) : x; }

class ReduceNode final : public Node {
 public:
  ReduceNode(const char* name, Loc where, const Tensor& x, const ReducedAxes& axes, Rule rule, double number)
      : Node(name, where, 1),
        rule_(rule),
        device_(x.device()),
        dtype_(x.dtype()),
        shape_(x.shape()),
        kept_(axes.kept),
        number_(number) {
    next = {x.edge()};
    for (int i = 0; i < shape_.rank(); ++i)
      if (axes.mask >> i & 1) axes_.push_back(i);
  }
  void save(Saves what, const Tensor& x, const Ref<Value>& y) {
    saves_ = what;
    if (what & input) x_.save(x.value_ref());
    if (what & output) y_.save(y);
  }
  void backward(BackwardContext& v) override {
    if (!v.grads[0].defined() || !v.needs(*this, 0)) return;
    if (released_ && saves_)
      fail<AutogradError>(
          where, "backward of {}: its saved tensors were freed by an earlier backward; pass retain_graph to that one",
          name);
    RuleScope scope(where, device_, dtype_);
    const bool edges = v.create_graph;
    const Tensor x = x_ ? widened(Tensor(x_.get(*this), edges ? next[0] : GradEdge()), where) : Tensor();
    const Tensor y =
        y_ ? widened(Tensor(y_.get(*this), edges ? GradEdge(this, 0) : GradEdge()).reshape(kept_, where), where)
           : Tensor();
    const Tensor g = widened(v.grads[0].reshape(kept_, where), where);
    const Tensor dx = rule_({g, x, y, shape_, axes_, number_});
    v.given[0] = dx.dtype() == dtype_ ? dx : dx.to(dtype_, where);
  }
  void release_saved() override {
    x_.reset();
    y_.reset();
    released_ = true;
  }

 private:
  Rule rule_;
  Device& device_;
  DType dtype_;
  Shape shape_, kept_;
  Dims axes_;
  double number_;
  SavedValue x_, y_;
  Saves saves_ = nothing;
  bool released_ = false;
};

Ref<Value> with_axes(const Ref<Value>& v, const Shape& shape) {
  return v->shape == shape ? v : pend_reshape_ones(v, shape);
}

// The result in the input's dtype, or float32 of 16 bits if `t` says so, and the asked shape, with its node. `y` has no graph
// and keeps the axes.
Tensor finish(const char* name, const Tensor& x, const Tensor& y, const ReducedAxes& axes, Rule rule, Saves saves,
              Loc loc, double number, DType t) {
  Ref<Value> out = y.value_ref();
  if (is_narrow(x.dtype()) && out->dtype != t) out = pend_copy(out, t);
  out = with_axes(out, axes.out);
  if (!is_float(x.dtype()) || !any_requires_grad({&x, 1})) return Tensor(std::move(out));
  ReduceNode* node = new ReduceNode(name, RuleScope::line(loc), x, axes, rule, number);
  const Ref<Node> keep(node);
  node->save(saves, x, out);
  return Tensor(std::move(out), GradEdge(node, 0));
}

Tensor finish(const char* name, const Tensor& x, const Tensor& y, const ReducedAxes& axes, Rule rule, Saves saves,
              Loc loc, double number = 1) {
  return finish(name, x, y, axes, rule, saves, loc, number, x.dtype());
}

void check_floating(const char* op, const Tensor& x, Loc loc) {
  if (x.defined() && !is_float(x.dtype()))
    fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", op, x.dtype());
}
Tensor reduced(Reduce r, const Tensor& x, const ReducedAxes& axes) {
  return Tensor(pend_reduce(r, x.value_ref(), axes.mask));
}
// Without a graph, wide enough to add up.
Tensor accumulable(const Tensor& x, Loc loc) {
  const Tensor bare = x.detach();
  return is_float(x.dtype()) ? widened(bare, loc) : bare.to(DType::i64, loc);
}

// Gradients.
Tensor sum_rule(const Reduced& r) { return r.g.expand(r.shape); }
// Of nothing there is no gradient, which would be divided by 0.
Tensor mean_rule(const Reduced& r) { return (r.g / std::max(1.0, r.number)).expand(r.shape); }
Tensor extreme_rule(const Reduced& r) {
  const Tensor hits = r.x == r.y;
  return where(hits, r.g / sum(hits.to(r.g.dtype()), r.axes, true), 0);
}
Tensor var_rule(const Reduced& r) { return (r.x - mean(r.x, r.axes, true)) * (r.g * (2 / r.number)); }
Tensor std_rule(const Reduced& r) {
  return (r.x - mean(r.x, r.axes, true)) * (where(r.y == 0, 0, r.g / where(r.y == 0, 1, r.y)) / r.number);
}
Tensor norm_rule(const Reduced& r) { return r.x * where(r.y == 0, 0, r.g / where(r.y == 0, 1, r.y)); }
// |x|^(p-1) sign(x) (g / norm^(p-1)), where powers of 0 are never taken.
Tensor p_norm_rule(const Reduced& r) {
  const Tensor nought = r.x == 0, no_norm = r.y == 0;
  const Tensor powers = sign(r.x) * pow(where(nought, 1, abs(r.x)), r.number - 1);
  return where(nought, 0, powers) * where(no_norm, 0, r.g / pow(where(no_norm, 1, r.y), r.number - 1));
}
Tensor count_rule(const Reduced& r) { return where(r.g < r.g, r.g, 0).expand(r.shape); }
Tensor logsumexp_rule(const Reduced& r) {
  // A row of -Inf has a gradient of 0, not of e^(Inf - Inf).
  return r.g * exp(r.x - where(r.y == -std::numeric_limits<double>::infinity(), 0, r.y));
}

// Of [m, n]: for each element the product of the others in its row, without dividing, so that zeros are no exception.
// Halves are paired until one column is left: about 2 m n products.
Tensor exclusive_products(const Tensor& t) {
  const int64_t n = t.shape()[1];
  if (n == 1) return ones_like(t);
  if (n % 2) return exclusive_products(cat({t, ones_like(t.narrow(1, 0, 1))}, 1)).narrow(1, 0, n);
  const Tensor left = t.narrow(1, 0, n / 2), right = t.narrow(1, n / 2, n / 2);
  const Tensor others = exclusive_products(left * right);
  return cat({others * right, others * left}, 1);
}
Tensor prod_rule(const Reduced& r) {
  if (r.x.numel() == 0 || r.axes.empty()) return r.g.expand(r.shape);
  Dims order, back = Dims::filled(r.shape.rank(), 0);
  int64_t inner = 1;
  const auto is_reduced = [&](int i) { return std::find(r.axes.begin(), r.axes.end(), i) != r.axes.end(); };
  for (int i = 0; i < r.shape.rank(); ++i)
    if (!is_reduced(i)) order.push_back(i);
  for (int64_t axis : r.axes) {
    order.push_back(axis);
    inner *= r.shape[static_cast<int>(axis)];
  }
  for (int i = 0; i < order.rank(); ++i) back[static_cast<int>(order[i])] = i;
  const Tensor rows = r.x.permute(order);
  return r.g * exclusive_products(rows.reshape({-1, inner})).reshape(rows.shape()).permute(back);
}

void check_not_empty(const char* op, const Tensor& x, const ReducedAxes& axes, Loc loc) {
  if (axes.count == 0)
    fail<ShapeError>(loc, "{}: expected at least one element to reduce over, got shape {}", op, x.shape());
}
Tensor extreme(const char* op, Reduce r, const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  const ReducedAxes a = reduced_axes(op, x, axes, keepdim, loc);
  check_not_empty(op, x, a, loc);
  return finish(op, x, reduced(r, x, a), a, &extreme_rule, both, loc);
}
Tensor truth(const char* op, Reduce r, const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  const ReducedAxes a = reduced_axes(op, x, axes, keepdim, loc);
  return Tensor(with_axes(pend_reduce(r, x.detach().to(DType::boolean, loc).value_ref(), a.mask), a.out));
}

struct Variance {
  Tensor value;
  double divisor;
};
Variance variance(const char* op, const Tensor& x, const ReducedAxes& axes, double correction, Loc loc) {
  if (!(correction >= 0)) fail<ValueError>(loc, "{}: expected a correction of 0 or more, got {}", op, correction);
  const double n = static_cast<double>(axes.count), divisor = std::max(0.0, n - correction);
  const Tensor w = accumulable(x, loc);
  const Tensor centred = w - reduced(Reduce::sum, w, axes) / n;
  return {reduced(Reduce::sum, square(centred), axes) / divisor, divisor};
}

}  // namespace

Tensor sum(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  const ReducedAxes a = reduced_axes("sum", x, axes, keepdim, loc);
  return finish("sum", x, reduced(Reduce::sum, accumulable(x, loc), a), a, &sum_rule, nothing, loc, 1,
                autocast_result("sum", x));
}
Tensor prod(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  const ReducedAxes a = reduced_axes("prod", x, axes, keepdim, loc);
  return finish("prod", x, reduced(Reduce::prod, accumulable(x, loc), a), a, &prod_rule, input, loc, 1,
                autocast_result("prod", x));
}
Tensor mean(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  check_floating("mean", x, loc);
  const ReducedAxes a = reduced_axes("mean", x, axes, keepdim, loc);
  const double n = static_cast<double>(a.count);
  return finish("mean", x, reduced(Reduce::sum, accumulable(x, loc), a) / n, a, &mean_rule, nothing, loc, n);
}
Tensor amax(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  return extreme("amax", Reduce::max, x, axes, keepdim, loc);
}
Tensor amin(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  return extreme("amin", Reduce::min, x, axes, keepdim, loc);
}

Tensor var(const Tensor& x, const Axes& axes, VarOptions options, Loc loc) {
  check_floating("var", x, loc);
  const ReducedAxes a = reduced_axes("var", x, axes, options.keepdim, loc);
  const Variance v = variance("var", x, a, options.correction, loc);
  return finish("var", x, v.value, a, &var_rule, input, loc, v.divisor);
}
Tensor std(const Tensor& x, const Axes& axes, VarOptions options, Loc loc) {
  check_floating("std", x, loc);
  const ReducedAxes a = reduced_axes("std", x, axes, options.keepdim, loc);
  const Variance v = variance("std", x, a, options.correction, loc);
  return finish("std", x, sqrt(v.value), a, &std_rule, both, loc, v.divisor);
}
Tensor norm(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  check_floating("norm", x, loc);
  const ReducedAxes a = reduced_axes("norm", x, axes, keepdim, loc);
  return finish("norm", x, sqrt(reduced(Reduce::sum, square(accumulable(x, loc)), a)), a, &norm_rule, both, loc, 1,
                autocast_result("norm", x));
}
Tensor norm(const Tensor& x, const Axes& axes, const NormOptions& options, Loc loc) {
  if (const AutocastCall cast{"norm", {&x}}) return norm(cast(x, loc), axes, options, loc);
  const OpScope scope("norm");
  const double p = options.p;
  if (p == 2) return norm(x, axes, options.keepdim, loc);
  check_floating("norm", x, loc);
  if (std::isnan(p)) fail<ValueError>(loc, "norm: expected an order, got NaN");
  const ReducedAxes a = reduced_axes("norm", x, axes, options.keepdim, loc);
  if (p < 0 || std::isinf(p)) check_not_empty("norm", x, a, loc);
  if (p == 1) return sum(abs(x, loc), axes, options.keepdim, loc);
  if (std::isinf(p)) return (p > 0 ? amax : amin)(abs(x, loc), axes, options.keepdim, loc);
  const Tensor w = accumulable(x, loc);
  if (p == 0) return finish("norm", x, reduced(Reduce::sum, (w != 0).to(w.dtype()), a), a, &count_rule, nothing, loc);
  return finish("norm", x, pow(reduced(Reduce::sum, pow(abs(w), p), a), 1 / p), a, &p_norm_rule, both, loc, p);
}
Tensor logsumexp(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  check_floating("logsumexp", x, loc);
  const ReducedAxes a = reduced_axes("logsumexp", x, axes, keepdim, loc);
  const Tensor w = accumulable(x, loc), top = reduced(Reduce::max, w, a);
  const Tensor shift = where(isfinite(top), top, 0);  // not e^(Inf - Inf); also the identity -Inf of an empty row
  return finish("logsumexp", x, log(reduced(Reduce::sum, exp(w - shift), a)) + shift, a, &logsumexp_rule, both, loc, 1,
                autocast_result("logsumexp", x));
}
MinMax aminmax(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  return {extreme("aminmax", Reduce::min, x, axes, keepdim, loc),
          extreme("aminmax", Reduce::max, x, axes, keepdim, loc)};
}
VarMean var_mean(const Tensor& x, const Axes& axes, VarOptions options, Loc loc) {
  const OpScope scope("var_mean");
  check_floating("var_mean", x, loc);
  const ReducedAxes a = reduced_axes("var_mean", x, axes, options.keepdim, loc);
  const Variance v = variance("var_mean", x, a, options.correction, loc);
  return {finish("var_mean", x, v.value, a, &var_rule, input, loc, v.divisor), mean(x, axes, options.keepdim, loc)};
}
StdMean std_mean(const Tensor& x, const Axes& axes, VarOptions options, Loc loc) {
  const OpScope scope("std_mean");
  check_floating("std_mean", x, loc);
  const ReducedAxes a = reduced_axes("std_mean", x, axes, options.keepdim, loc);
  const Variance v = variance("std_mean", x, a, options.correction, loc);
  return {finish("std_mean", x, sqrt(v.value), a, &std_rule, both, loc, v.divisor),
          mean(x, axes, options.keepdim, loc)};
}
Tensor nansum(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  const OpScope scope("nansum");
  reduced_axes("nansum", x, axes, keepdim, loc);
  return sum(is_float(x.dtype()) ? where(isnan(x, loc), 0, x, loc) : x, axes, keepdim, loc);
}
Tensor nanmean(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  const OpScope scope("nanmean");
  check_floating("nanmean", x, loc);
  reduced_axes("nanmean", x, axes, keepdim, loc);
  const Tensor w = widened(x, loc);
  const Tensor count = sum((x.detach() == x.detach()).to(w.dtype(), loc), axes, keepdim, loc);
  return div(nansum(w, axes, keepdim, loc), count, loc).to(x.dtype(), loc);
}
Tensor count_nonzero(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  reduced_axes("count_nonzero", x, axes, keepdim, loc);
  return sum(ne(x.detach(), 0, loc), axes, keepdim, loc);
}
Tensor any(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  return truth("any", Reduce::any, x, axes, keepdim, loc);
}
Tensor all(const Tensor& x, const Axes& axes, bool keepdim, Loc loc) {
  return truth("all", Reduce::all, x, axes, keepdim, loc);
}

Tensor sum_to(const Tensor& g, const Shape& shape, Loc loc) {
  if (g.shape() == shape) return g;
  const int extra = g.rank() - shape.rank();
  Dims axes;
  for (int i = 0; i < g.rank(); ++i) {
    if (i < extra || (shape[i - extra] == 1 && g.shape()[i] != 1)) axes.push_back(i);
    else if (shape[i - extra] != g.shape()[i])
      fail<ShapeError>(loc, "sum_to: {} was not broadcast from {}", g.shape(), shape);
  }
  if (extra < 0) fail<ShapeError>(loc, "sum_to: {} was not broadcast from {}", g.shape(), shape);
  return sum(g, axes, true, loc).reshape(shape, loc);
}

}  // namespace flame
