// Losses over classes, which are gathered or compared with a count along their axis, never multiplied with a mask,
// so that a NaN or Inf elsewhere in the row or in an ignored row stays out.
#include "flame/ops/cross_entropy.h"

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/device/cpu/strided_copy.h"
#include "flame/device/out_of_range.h"
#include "flame/fuse/island.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/composed_internal.h"
#include "flame/ops/cross_entropy_internal.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/gather.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"
#include "flame/ops/softmax.h"

namespace flame {
namespace {

struct BadClass : IndexError {
  BadClass(int64_t value, int64_t classes)
      : IndexError(fmt::format("target {} is out of range for {} classes", value, classes), Loc::current()),
        value(value) {}
  int64_t value;
};

// A kernel that notes a bad target, which the next wait throws.
void check_on_device(const char* op, Device& d, const Value& target, int64_t classes, int64_t ignored, Loc loc) {
  if (numel(target.shape) == 0) return;
  Key key;
  key << "class_range" << op << target.meta();
  const Ref<Plan> plan = d.plans().get(key, [&, m = target.meta()] {
    struct {  // as in one_hot.cu
      const char* op;
      int64_t rank, count, classes, ignored;
      int64_t shape[max_rank], strides[max_rank];
    } t{op, m.shape.rank(), numel(m.shape), 0, 0, {}, {}};
    for (int i = 0; i < m.shape.rank(); ++i) {
      t.shape[i] = m.shape[i];
      t.strides[i] = m.strides[i];
    }
    return make_ref<Plan>("class_range",
                          [t, k = device_kernel(d, "ops/one_hot.cu", "class_range", DType::i64)](const Run& r) {
                            auto own = t;
                            own.classes = r.scalars[0].i;
                            own.ignored = r.scalars[1].i;
                            (*k)({.blocks = blocks_for(own.count, 256)}, own, r.buffers[0]);
                          });
  });
  const Buffer read = target.buffer();
  const Word scalars[] = {word(classes), word(ignored)};
  at_line(loc, [&] { d.launch({plan, {&read, 1}, {}, scalars}, loc); });
}

// One look at the targets where they lie in host memory. It is a launch of its own, since islands throw nothing.
void check_classes(const char* op, const Tensor& target, int64_t classes, int64_t ignored, Loc loc) {
  Device& d = target.device();
  if (d.kind() == Device::Kind::trace) return;
  materialize(target.value());
  if (d.kind() == Device::Kind::cuda) return check_on_device(op, d, target.value(), classes, ignored, loc);
  Key key;
  key << "class_range" << target.value().meta();
  const Ref<Plan> plan = d.plans().get(key, [m = target.value().meta()] {
    Shape shape = m.shape;
    std::array<Strides, 1> strides{m.strides};
    if (shape.empty()) {
      shape.push_back(1);
      strides[0].push_back(1);
    }
    return make_ref<Plan>("class_range", [shape, strides](const Run& r) {
      const auto* target = static_cast<const int64_t*>(r.buffers[0]);
      const int64_t n = shape.back(), step = strides[0].back(), rows = n ? numel(shape) / n : 0;
      RowWalk<1> walk(shape, strides, 0);
      for (int64_t row = 0; row < rows; ++row, walk.next())
        for (int64_t i = 0; i < n; ++i) {
          const int64_t t = target[walk.at[0] + i * step];
          if ((t < 0 || t >= r.scalars[0].i) && t != r.scalars[1].i) throw BadClass(t, r.scalars[0].i);
        }
    });
  });
  const Buffer read = target.value().buffer();
  const Word scalars[] = {word(classes), word(ignored)};
  try {
    d.launch({plan, {&read, 1}, {}, scalars}, loc);
  } catch (const BadClass& e) {
    fail<IndexError>(loc, "{}: target {} is out of range for {} classes", op, e.value, classes);
  }
}

// Checked arguments of a loss over classes.
struct Classes {
  int axis;
  int64_t count;
  Tensor target;  // int64, with size 1 along the class axis
  Tensor weight;  // broadcasts against the logits, float32 or float64; or undefined
};
Classes check(const char* op, const Tensor& x, const Tensor& target, const Tensor& weight, int64_t ignored, Loc loc) {
  Classes c;
  c.axis = x.rank() == 1 ? 0 : 1;
  c.count = x.shape()[c.axis];
  if (c.count == 0) fail<ShapeError>(loc, "{}: expected at least one class, got an input of shape {}", op, x.shape());
  if (target.dtype() != DType::i64 && target.dtype() != DType::i32)
    fail<DTypeError>(loc, "{}: expected targets of int64 or int32, or probabilities; got {}", op, target.dtype());
  Shape expected = x.shape();
  expected.erase(c.axis);
  if (target.shape() != expected)
    fail<ShapeError>(loc, "{}: input {} needs targets of shape {}, got {}", op, x.shape(), expected, target.shape());
  const Tensor t = target.to(DType::i64, loc);
  check_classes(op, t, c.count, ignored, loc);
  c.target = t.unsqueeze(c.axis, loc);
  if (weight.defined()) {
    if (weight.shape() != Shape{c.count})
      fail<ShapeError>(loc, "{}: expected a weight of shape [{}], got {}", op, c.count, weight.shape());
    Shape s = Dims::filled(x.rank(), 1);
    s[c.axis] = c.count;
    c.weight = weight.detach().to(compute_dtype_of(x.dtype()), loc).reshape(s, loc);
  }
  return c;
}
void check_input(const char* op, const Tensor& x, Reduction r, Loc loc) {
  check_floating(op, x, loc);
  if (x.rank() == 0) fail<ShapeError>(loc, "{}: expected an input of rank 1 or more, got a 0-d one", op);
  check_reduction(op, r, loc);
}

// True where the class axis' index is the target.
Tensor hits(const Shape& shape, const Classes& c) {
  return eq(Tensor(pend_iota(shape, DType::i64, c.axis, 0, 1, c.target.device())), c.target);
}

// Of each row of x the element of its class, in float32 or float64; anything in an ignored row. Comparing joins the island of the loss, which is
// fewest launches; over many classes reading the one element is faster (0.4 of the time with 1,000 classes).
Tensor of_class(const Tensor& x, const Classes& c, int64_t ignored, Loc loc) {
  const DType wide = compute_dtype_of(x.dtype());
  if (c.count < 128) return sum(where(hits(x.shape(), c), x.to(wide, loc), 0.0, loc), c.axis, true, loc);
  return gather(x, c.axis, where(ne(c.target, ignored, loc), c.target, 0, loc), loc).to(wide, loc);
}

// Each row's loss is (1 - s) w_t (lse - z_t) + s / C sum_c w_c (lse - z_c), with s the smoothing.
std::vector<Tensor> class_gradient(const CustomContext& ctx, Classes c, const CrossEntropyOptions& o) {
  c.target = ctx.saved[6];
  c.weight = ctx.saved[7];
  const Tensor logits = ctx.saved[0], valid = ctx.saved[3];
  if (!ctx.create_graph && !c.weight.defined() && class_rows_fit(logits, c.axis)) {
    Tensor factor = ctx.grads[0].to(compute_dtype_of(logits.dtype()));
    if (o.reduction == Reduction::none) factor = factor.unsqueeze(c.axis);
    if (o.reduction == Reduction::mean) factor = factor / ctx.saved[4];
    return {class_row_gradient({o.ignore_index, o.label_smoothing}, logits, c.target, ctx.saved[1], ctx.saved[2],
                               factor.expand(c.target.shape()), Loc::current())};
  }
  const Tensor z = logits.to(compute_dtype_of(logits.dtype()));
  const Tensor p = ctx.create_graph ? softmax(z, c.axis) : exp((z - ctx.saved[1]) - ctx.saved[2]);
  Tensor d = where(hits(z.shape(), c), p - 1, p);
  if (c.weight.defined()) d = d * ctx.saved[5];
  if (o.label_smoothing > 0) {
    const double share = o.label_smoothing / static_cast<double>(c.count);
    const Tensor spread = c.weight.defined() ? p * sum(c.weight) - c.weight : p * static_cast<double>(c.count) - 1;
    d = d * (1 - o.label_smoothing) + spread * share;
  }
  const Tensor g = ctx.grads[0].to(z.dtype());
  d = d * (o.reduction == Reduction::none ? g.unsqueeze(c.axis) : g);
  if (o.reduction == Reduction::mean) d = d / ctx.saved[4];
  return {where(valid, d, 0.0).to(logits.dtype())};
}

Tensor class_loss(const Tensor& logits, const Classes& c, const CrossEntropyOptions& o, DType result, Loc loc) {
  std::vector<Tensor> saved;
  const Tensor loss = no_grad([&]() -> Tensor {
    const DType wide = compute_dtype_of(logits.dtype());
    if (!c.weight.defined() && class_rows_fit(logits, c.axis)) {
      const ClassRowLosses rows = class_row_losses({o.ignore_index, o.label_smoothing}, logits, c.target, loc);
      const Tensor valid = ne(c.target, o.ignore_index);
      saved = {logits, rows.top, rows.log_sum, valid, Tensor(), Tensor(), c.target, c.weight};
      if (o.reduction == Reduction::none) return rows.loss.squeeze(c.axis);
      if (o.reduction == Reduction::mean) saved[4] = sum(valid.to(wide));
      return o.reduction == Reduction::mean ? sum(rows.loss) / saved[4] : sum(rows.loss);
    }
    const Tensor z = logits.to(wide);
    const Tensor picked = of_class(logits, c, o.ignore_index, loc), top = amax(z, c.axis, true), shifted = z - top;
    const Tensor log_sum = log(sum(exp(shifted), c.axis, true));
    Tensor row = log_sum - (picked - top), weight;
    if (c.weight.defined()) {
      weight = of_class(c.weight.expand(z.shape()), c, o.ignore_index, loc);
      row = row * weight;
    }
    if (o.label_smoothing > 0) {
      const double share = o.label_smoothing / static_cast<double>(c.count);
      const Tensor all = c.weight.defined() ? log_sum * sum(c.weight) - sum(shifted * c.weight, c.axis, true)
                                            : log_sum * static_cast<double>(c.count) - sum(shifted, c.axis, true);
      row = row * (1 - o.label_smoothing) + all * share;
    }
    const Tensor valid = ne(c.target, o.ignore_index);
    row = where(valid, row, 0.0);
    saved = {logits, top, log_sum, valid, Tensor(), weight, c.target, c.weight};
    if (o.reduction == Reduction::none) return row.squeeze(c.axis);
    if (o.reduction == Reduction::sum) return sum(row);
    saved[4] = sum(weight.defined() ? where(valid, weight, 0.0) : valid.to(z.dtype()));
    return sum(row) / saved[4];
  });
  const Tensor out = loss.to(result);
  Classes sizes{c.axis, c.count, {}, {}};  // what the rule needs of tensors is among the saved ones
  CrossEntropyOptions numbers = o;
  numbers.weight = {};
  return with_rule(
      "cross_entropy", {&logits, 1}, {out}, saved,
      [sizes, numbers](const CustomContext& ctx) { return class_gradient(ctx, sizes, numbers); }, loc)[0];
}

// Targets are probabilities: -sum_c w_c t_c log p_c, averaged over rows.
Tensor probability_loss(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& o, DType result,
                        Loc loc) {
  if (target.shape() != logits.shape())
    fail<ShapeError>(loc, "cross_entropy: expected probabilities of the logits' shape {}, got {}", logits.shape(),
                     target.shape());
  const int axis = logits.rank() == 1 ? 0 : 1;
  const int64_t classes = logits.shape()[axis];
  if (classes == 0)
    fail<ShapeError>(loc, "cross_entropy: expected at least one class, got an input of shape {}", logits.shape());
  const DType wide = compute_dtype_of(logits.dtype());
  Tensor t = target.to(wide, loc);
  if (o.label_smoothing > 0)
    t = add(mul(t, 1 - o.label_smoothing, loc), o.label_smoothing / static_cast<double>(classes), loc);
  if (o.weight.defined()) {
    if (o.weight.shape() != Shape{classes})
      fail<ShapeError>(loc, "cross_entropy: expected a weight of shape [{}], got {}", classes, o.weight.shape());
    Shape s = Dims::filled(logits.rank(), 1);
    s[axis] = classes;
    t = mul(t, o.weight.detach().to(wide, loc).reshape(s, loc), loc);
  }
  const Tensor row = neg(sum(mul(t, log_softmax(logits.to(wide, loc), axis, loc), loc), axis, false, loc), loc);
  return reduced(row, o.reduction, loc).to(result, loc);
}

}  // namespace

Tensor wide_cross_entropy(const char* op, const Tensor& logits, const Tensor& target, const CrossEntropyOptions& o,
                          Loc loc) {
  return class_loss(logits, check(op, logits, target, o.weight, o.ignore_index, loc), o,
                    compute_dtype_of(logits.dtype()), loc);
}

LossAndGradient cross_entropy_with_gradient(const char* op, Tensor logits, const Tensor& target,
                                            const CrossEntropyOptions& o, const Tensor& factor, Loc loc) {
  const Classes c = check(op, logits, target, {}, o.ignore_index, loc);
  if (class_rows_fit(logits, c.axis)) {
    LossesAndGradient rows =
        class_row_losses_and_gradient({o.ignore_index, o.label_smoothing}, std::move(logits), c.target, factor, loc);
    return {sum(rows.losses), std::move(rows.gradient)};
  }
  const EnableGrad graph;
  logits.requires_grad_();
  const Tensor loss = class_loss(logits, c, o, compute_dtype_of(logits.dtype()), loc);
  return {loss.detach(), grad({loss}, {logits}, {.grad_outputs = {factor}})[0]};
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target, const CrossEntropyOptions& o, Loc loc) {
  const DType result = autocast_result("cross_entropy", logits);
  const OpScope scope("cross_entropy");
  check_inputs("cross_entropy", {&logits, &target}, {&o.weight}, loc);
  check_input("cross_entropy", logits, o.reduction, loc);
  if (!(o.label_smoothing >= 0 && o.label_smoothing <= 1))
    fail<ValueError>(loc, "cross_entropy: expected a label smoothing in [0, 1], got {}", o.label_smoothing);
  if (is_float(target.dtype())) return probability_loss(logits, target, o, result, loc);
  return class_loss(logits, check("cross_entropy", logits, target, o.weight, o.ignore_index, loc), o, result, loc);
}

Tensor nll_loss(const Tensor& x, const Tensor& target, const NllLossOptions& o, Loc loc) {
  const DType result = autocast_result("nll_loss", x);
  const OpScope scope("nll_loss");
  check_inputs("nll_loss", {&x, &target}, {&o.weight}, loc);
  check_input("nll_loss", x, o.reduction, loc);
  const Classes c = check("nll_loss", x, target, o.weight, o.ignore_index, loc);
  Tensor row = neg(of_class(x, c, o.ignore_index, loc), loc), weight;
  if (c.weight.defined()) {
    weight = of_class(c.weight.expand(x.shape(), loc), c, o.ignore_index, loc);
    row = mul(row, weight, loc);
  }
  const Tensor valid = ne(c.target, o.ignore_index, loc);
  row = where(valid, row, 0.0, loc);
  if (o.reduction == Reduction::none) return row.squeeze(c.axis, loc).to(result, loc);
  Tensor total = sum(row, {}, false, loc);
  if (o.reduction == Reduction::mean)
    total =
        div(total, sum(weight.defined() ? where(valid, weight, 0.0, loc) : valid.to(row.dtype(), loc), {}, false, loc),
            loc);
  return total.to(result, loc);
}

namespace {
using Inputs = std::vector<Tensor>;

std::vector<SampleCase> cross_entropy_cases(DType t) {
  const auto fn = [](const CrossEntropyOptions& o = {}) {
    return [o](const Inputs& in) { return Inputs{cross_entropy(in[0], in[1], o)}; };
  };
  using namespace samples;
  const Tensor weight = uniform({5}, t, 4, 0.5, 2);
  const Tensor some = Tensor::from(std::vector<int64_t>{1, -100, 4, 0, -100, 3}, {6});
  const Tensor chances = uniform({4, 5}, t, 5, 0.0, 0.4);
  return {
      {{uniform({6, 5}, t), classes({6}, 5)}, fn(), "mean", 1},
      {{transposed({6, 5}, t), some}, fn({.weight = weight}), "weighted mean, some ignored, transposed", 1},
      {{strided({6, 5}, t), some},
       fn({.weight = weight, .label_smoothing = 0.2, .reduction = Reduction::none}),
       "smoothed, each row",
       1},
      {{uniform({6, 5}, t), some}, fn({.label_smoothing = 0.1}), "smoothed mean", 1},
      {{channels_last({2, 5, 3, 2}, t), classes({2, 3, 2}, 5)},
       fn({.reduction = Reduction::sum}),
       "sum over pictures",
       1},
      {{uniform({5}, t), classes({}, 5)}, fn(), "one row without N", 1},
      {{uniform({4, 5}, t), chances}, fn({.weight = weight, .label_smoothing = 0.1}), "probabilities"},
      {{uniform({0, 5}, t), classes({0}, 5)}, fn({.reduction = Reduction::sum}), "no rows", 1},
      {{uniform({6, 130}, t), some}, fn({.label_smoothing = 0.1}), "many classes, some ignored", 1},
      {{channels_last({2, 130, 3, 1}, t), classes({2, 3, 1}, 130)},
       fn({.weight = uniform({130}, t, 6, 0.5, 2)}),
       "many classes, weighted, channels last",
       1},
  };
}
const RegisterOp registered_cross_entropy({.name = "cross_entropy",
                                           .signature = "cross_entropy(logits, target, options)",
                                           .formula = "log(sum(exp(z))) - z[target]",
                                           .samples = cross_entropy_cases});

const RegisterOp registered_nll({
    .name = "nll_loss",
    .signature = "nll_loss(log_probabilities, target, options)",
    .formula = "-x[target]",
    .samples =
        [](DType t) {
          using namespace samples;
          const Tensor weight = uniform({5}, t, 4, 0.5, 2);
          const auto fn = [weight](const Inputs& in) { return Inputs{nll_loss(in[0], in[1], {.weight = weight})}; };
          return std::vector<SampleCase>{{{uniform({6, 5}, t), classes({6}, 5)}, fn, "rows", 1},
                                         {{strided({2, 5, 3}, t), classes({2, 3}, 5)}, fn, "strided", 1},
                                         {{strided({2, 130, 3}, t), classes({2, 3}, 130)},
                                          [](const Inputs& in) { return Inputs{nll_loss(in[0], in[1])}; },
                                          "many classes",
                                          1}};
        },
});
}  // namespace

}  // namespace flame
