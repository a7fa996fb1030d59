// linear: one product over all rows, its bias and activation fused, the weight read transposed where it lies. feed_forward:
// two of them, whose gradient passes through the activation inside a product.
#include "flame/ops/linear.h"

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/activation.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/linear_internal.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise_internal.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

int64_t rows_of(const Shape& s) {
  int64_t rows = 1;
  for (int i = 0; i + 1 < s.rank(); ++i) rows *= s[i];
  return rows;
}

// As a matrix at least: a vector is one row.
Meta matrix(const Meta& m) {
  if (m.shape.rank() > 1) return m;
  return {m.dtype, {1, m.shape[0]}, {m.shape[0] * m.strides[0], m.strides[0]}};
}

Meta turned(const Meta& m) { return {m.dtype, {m.shape[1], m.shape[0]}, {m.strides[1], m.strides[0]}}; }

bool fuses(const Tensor& x) { return x.device().fuses() && is_float(x.dtype()); }
bool in_products(Activation a) { return a == Activation::relu || a == Activation::gelu_tanh; }

// What the ops of this file share: their plans follow two switches.
class Product : public Op {
 public:
  void key(Key& k) const override { k << deterministic() << matmul_precision(); }
  int64_t flops(std::span<const Meta> in, std::span<const Meta> out) const override {
    return 2 * numel(out[0].shape) * in[0].shape.back();
  }

 protected:
  static bool tf32() { return matmul_precision() == "high"; }
};

// (g [rows, out], x [rows, in]) -> (g^T x, the sums of g's columns): a layer's gradients to weight and bias.
class LinearGradient final : public Product {
 public:
  const char* name() const override { return "linear_gradient"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    const int64_t out = in[0].shape()[1];
    return {contiguous_meta(in[0].dtype(), {out, in[1].shape()[1]}), contiguous_meta(in[0].dtype(), {out})};
  }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return d.gemm({.a = turned(in[0]), .b = in[1], .c = out[0], .tf32 = tf32(), .sums = true});
  }
  int64_t flops(std::span<const Meta> in, std::span<const Meta> out) const override {
    return 2 * numel(out[0].shape) * in[0].shape[0];
  }
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    if (v.needs(0)) v.give(0, linear(v.input(1), v.grad(0), v.grad(1), {}, loc));
    if (v.needs(1)) v.give(1, matmul(v.input(0), v.grad(0), loc));
  }
};

// A layer's gradients to weight and bias from g [..., out] and x [..., in], undefined where they are not wanted. In one
// product where the device can, unless an island makes g: it sums g as well.
std::pair<Tensor, Tensor> gradients(const Tensor& g, const Tensor& x, bool weight, bool bias, bool island, Loc loc) {
  const int64_t out = g.shape().back(), rows = rows_of(g.shape());
  Tensor sums;
  const bool fused = weight && bias && fuses(g) && !island;
  if (bias && !fused) sums = sum_to(g, {out}, loc);  // first: it joins that island
  if (!weight) return {Tensor(), sums};
  const Tensor a = g.reshape({rows, out}, loc), b = x.reshape({rows, x.shape().back()}, loc);
  if (!fused) return {matmul(a.t(loc), b, loc), sums};
  const std::vector<Tensor> both = dispatch_multi(make_ref<LinearGradient>(), std::array{a, b}, loc);
  return {both[0], both[1]};
}

// (x [..., in], weight [out, in], bias [out] or left out), shapes checked -> the result, and what its activation's slope is
// taken at if that is kept.
class Linear final : public Product {
 public:
  explicit Linear(bool bias, Activation activation = Activation::none, bool keeps = false)
      : bias_(bias), activation_(activation), keeps_(keeps) {}
  const char* name() const override { return "linear"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    Shape out = in[0].shape();
    out[out.rank() - 1] = in[1].shape()[0];
    const Meta y = contiguous_meta(in[0].dtype(), out);
    if (!keeps_) return {y};
    return {y, kept_meta(activation_, y)};
  }
  Layout layout(int input, const Meta&) const override { return input == 2 ? Layout::contiguous : Layout::any; }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return d.gemm({.a = matrix(in[0]),
                   .b = turned(in[1]),
                   .c = matrix(out[0]),
                   .bias = bias_,
                   .tf32 = tf32(),
                   .activation = activation_,
                   .keep = keeps_});
  }
  void key(Key& k) const override {
    Product::key(k);
    k << activation_ << keeps_;
  }
  bool saves_input(int i) const override { return i != 2; }
  bool saves_output(int i) const override {
    return i == (activation_ == Activation::relu ? 0 : activation_ == Activation::gelu_tanh ? 1 : -1);
  }
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    const bool passes = activation_ == Activation::none || activation_ == Activation::relu;
    if (passes && v.needs(1) && !v.create_graph() && one_launch_fits(v.grad(0), v.input_meta(0), v.input_meta(1))) {
      const bool relu = activation_ == Activation::relu;
      const LinearGradients d = one_launch_gradients(v.grad(0), v.input(0), v.needs(0) ? v.input(1) : Tensor(),
                                                     relu ? v.output(0) : Tensor(), bias_ && v.needs(2), loc);
      if (d.bias.defined()) v.give(2, d.bias);
      if (d.x.defined()) v.give(0, d.x);
      return v.give(1, d.weight);
    }
    const Tensor g = before_activation(v);
    const auto [weight, bias] = gradients(g, v.needs(1) ? v.input(0) : Tensor(), v.needs(1), bias_ && v.needs(2),
                                          activation_ != Activation::none || sums_beside_rows(g.value()), loc);
    if (bias.defined()) v.give(2, bias);
    if (v.needs(0)) v.give(0, matmul(g, v.input(1), loc));
    if (weight.defined()) v.give(1, weight);
  }

 private:
  // The gradient to the sum that the activation is taken of.
  Tensor before_activation(Vjp& v) const {
    Tensor g = v.grad(0);
    if (activation_ == Activation::relu) return where(v.output(0) <= 0, 0, g);
    if (activation_ != Activation::gelu_tanh) return g;
    const Tensor before = g * gelu_tanh_slope(v.output(1));
    return v.has_grad(1) ? before + v.grad(1) : before;  // of a second derivative
  }

  const bool bias_;
  const Activation activation_;
  const bool keeps_;
};

// (g [rows, out], weight2 [out, hidden], what was kept of the activation) -> the gradient to what it was taken of, and the sums
// of its columns if they are wanted.
class HiddenGradient final : public Product {
 public:
  HiddenGradient(Activation a, bool sums) : activation_(a), sums_(sums) {}
  const char* name() const override { return "feed_forward_backward"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    const int64_t hidden = in[1].shape()[1];
    std::vector<Meta> out{contiguous_meta(in[0].dtype(), {in[0].shape()[0], hidden})};
    if (sums_) out.push_back(contiguous_meta(in[0].dtype(), {hidden}));
    return out;
  }
  Layout layout(int input, const Meta&) const override { return input == 2 ? Layout::contiguous : Layout::any; }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return d.gemm({.a = in[0], .b = in[1], .c = out[0], .tf32 = tf32(), .slope = activation_, .sums = sums_});
  }
  void key(Key& k) const override {
    Product::key(k);
    k << activation_ << sums_;
  }
  bool differentiable() const override { return false; }  // the rule of feed_forward has another way for that

 private:
  const Activation activation_;
  const bool sums_;
};

// Of one layer: checks, and the dtype that all are promoted to.
DType check(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, Loc loc) {
  check_inputs(op, {&x, &weight}, {&bias}, loc);
  if (weight.rank() != 2) fail<ShapeError>(loc, "{}: expected a weight of rank 2, got {}", op, weight.shape());
  if (x.rank() == 0 || x.shape().back() != weight.shape()[1])
    fail<ShapeError>(loc, "{}: expected x [..., {}] for weight {}, got {}", op, weight.shape()[1], weight.shape(),
                     x.shape());
  if (bias.defined() && bias.shape() != Shape{weight.shape()[0]})
    fail<ShapeError>(loc, "{}: expected a bias of shape [{}], got {}", op, weight.shape()[0], bias.shape());
  DType t = promote(x.dtype(), weight.dtype());
  if (bias.defined()) t = promote(t, bias.dtype());
  if (t == DType::boolean) fail<DTypeError>(loc, "{}: expected numbers, got bool tensors", op);
  return t;
}

std::vector<Tensor> layer(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation a, bool keep, Loc loc) {
  const Tensor in[] = {x, weight, bias};
  return dispatch_multi(make_ref<Linear>(bias.defined(), a, keep), std::span(in, bias.defined() ? 3 : 2), loc);
}

// Of one dtype. The graph keeps x, the weights, what is between, and what its slope is taken at.
Tensor fused_feed_forward(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2,
                          Activation a, Loc loc) {
  const Shape rows{rows_of(x.shape()), x.shape().back()};
  Shape outer = x.shape();
  outer[outer.rank() - 1] = w2.shape()[0];
  const bool biased1 = b1.defined(), biased2 = b2.defined();
  std::vector<Tensor> in{x, w1, w2}, hidden;
  for (const Tensor* b : {&b1, &b2})
    if (b->defined()) in.push_back(*b);
  const bool wanted = any_requires_grad(in);
  Tensor y = no_grad([&] {
    hidden = layer(x.reshape(rows, loc), w1, b1, a, wanted, loc);
    return linear(hidden[0], w2, b2, {}, loc).reshape(outer, loc);
  });
  if (!wanted) return y;
  const auto rule = [=](const CustomContext& c) {
    const Tensor &weight1 = c.saved[1], &weight2 = c.saved[2], bias = biased1 ? c.saved[5] : Tensor();
    const bool last = biased2 && c.needs.back(), beside = last && sums_beside_rows(c.grads[0].value());
    Tensor db2 = beside ? sum_to(c.grads[0], {weight2.shape()[0]}, loc) : Tensor();  // first: it joins that island
    const Tensor g = c.grads[0].reshape({rows[0], weight2.shape()[0]}, loc), flat = c.saved[0].reshape(rows, loc);
    Tensor between = c.saved[3], before, sums;
    if (c.create_graph) {  // again, in ops that have gradients
      const Tensor sum = linear(flat, weight1, bias, {}, loc);
      between = activate(sum, a, loc);
      const Tensor towards = matmul(g, weight2, loc);
      before = a == Activation::relu ? where(between <= 0, 0, towards) : towards * gelu_tanh_slope(sum);
    } else {
      // Products of 16 bits have the sums of what they write at hand, small ones those of what they read.
      const bool summed = biased1 && c.needs[3] && a == Activation::gelu_tanh && size_of(g.dtype()) == 2;
      const std::vector<Tensor> both =
          dispatch_multi(make_ref<HiddenGradient>(a, summed), std::array{g, weight2, c.saved[4]}, loc);
      before = both[0];
      if (summed) sums = both[1];
    }
    const auto [dw2, sums2] = gradients(g, between, c.needs[2], last && !beside, false, loc);
    if (!beside) db2 = sums2;
    const auto [dw1, db1] = gradients(before, flat, c.needs[1], biased1 && c.needs[3] && !sums.defined(), false, loc);
    Tensor dx;
    if (c.needs[0]) dx = matmul(before, weight1, loc).reshape(c.saved[0].shape(), loc);
    std::vector<Tensor> out{dx, dw1, dw2};
    if (biased1) out.push_back(sums.defined() ? sums : db1);
    if (biased2) out.push_back(db2);
    return out;
  };
  std::vector<Tensor> saved{x, w1, w2, hidden[0], hidden[1]};
  if (biased1) saved.push_back(b1);
  return with_rule("feed_forward", in, {y}, saved, rule, loc)[0];
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const LinearOptions& o, Loc loc) {
  if (const AutocastCall cast{"linear", {&x, &weight, &bias}})
    return linear(cast(x, loc), cast(weight, loc), cast(bias, loc), o, loc);
  const OpScope scope("linear");
  const DType t = check("linear", x, weight, bias, loc);
  if (o.activation != Activation::none && !is_float(t))
    fail<DTypeError>(loc, "linear: expected a floating dtype for an activation, got {}", t);
  const Tensor a = x.to(t, loc), w = weight.to(t, loc), b = bias.defined() ? bias.to(t, loc) : Tensor();
  if (!in_products(o.activation) || !fuses(a))
    return activate(layer(a, w, b, Activation::none, false, loc)[0], o.activation, loc);
  const Tensor all[] = {a, w, b};
  const bool graph = any_requires_grad(std::span(all, b.defined() ? 3 : 2));
  return layer(a, w, b, o.activation, graph && o.activation == Activation::gelu_tanh, loc)[0];
}

Tensor feed_forward(const Tensor& x, const Tensor& weight1, const Tensor& bias1, const Tensor& weight2,
                    const Tensor& bias2, const FeedForwardOptions& o, Loc loc) {
  if (const AutocastCall cast{"feed_forward", {&x, &weight1, &bias1, &weight2, &bias2}})
    return feed_forward(cast(x, loc), cast(weight1, loc), cast(bias1, loc), cast(weight2, loc), cast(bias2, loc), o,
                        loc);
  const OpScope scope("feed_forward");
  check_inputs("feed_forward", {&x, &weight1, &weight2}, {&bias1, &bias2}, loc);
  DType t = check("feed_forward", x, weight1, bias1, loc);
  if (weight2.rank() != 2 || weight2.shape()[1] != weight1.shape()[0])
    fail<ShapeError>(loc, "feed_forward: expected a second weight [out, {}] for the first of shape {}, got {}",
                     weight1.shape()[0], weight1.shape(), weight2.shape());
  if (bias2.defined() && bias2.shape() != Shape{weight2.shape()[0]})
    fail<ShapeError>(loc, "feed_forward: expected a second bias of shape [{}], got {}", weight2.shape()[0],
                     bias2.shape());
  t = promote(t, weight2.dtype());
  if (bias2.defined()) t = promote(t, bias2.dtype());
  if (!is_float(t)) fail<DTypeError>(loc, "feed_forward: expected a floating dtype, got {}", t);
  const auto cast = [&](const Tensor& p) { return p.defined() ? p.to(t, loc) : p; };
  const Tensor a = x.to(t, loc), w1 = cast(weight1), b1 = cast(bias1), w2 = cast(weight2), b2 = cast(bias2);
  if (in_products(o.activation) && fuses(a)) return fused_feed_forward(a, w1, b1, w2, b2, o.activation, loc);
  return linear(linear(a, w1, b1, {.activation = o.activation}, loc), w2, b2, {}, loc);
}

namespace {
using Inputs = std::vector<Tensor>;
const RegisterOp registered({
    .name = "linear",
    .signature = "linear(x, weight, bias = {}, {.activation = Activation::none})",
    .formula = "out[..., j] = sum over i of x[..., i] weight[j, i], + bias[j], and its activation",
    .samples =
        [](DType t) {
          const auto with = [](Activation a) {
            return [a](const Inputs& in) {
              return Inputs{linear(in[0], in[1], in.size() > 2 ? in[2] : Tensor(), {.activation = a})};
            };
          };
          const auto fn = with(Activation::none);
          using namespace samples;
          std::vector<SampleCase> all{
              {{uniform({3, 4}, t, 1), uniform({5, 4}, t, 2), uniform({5}, t, 3)}, fn, "rows and bias"},
              {{uniform({3, 4}, t, 1), uniform({5, 4}, t, 2)}, fn, "no bias"},
              {{uniform({4}, t, 1), uniform({2, 4}, t, 2), uniform({2}, t, 3)}, fn, "vector"},
              {{transposed({2, 3, 4}, t, 1), transposed({2, 4}, t, 2), strided({2}, t, 3)}, fn, "rank 3, transposed"},
              {{strided({3, 4}, t, 1), strided({1, 4}, t, 2), uniform({1}, t, 3)}, fn, "one output, strided"},
              {{uniform({0, 4}, t, 1), uniform({3, 4}, t, 2), uniform({3}, t, 3)}, fn, "no rows"},
              {{uniform({2, 0}, t, 1), uniform({3, 0}, t, 2), uniform({3}, t, 3)}, fn, "no inputs"},
          };
          if (!is_float(t)) return all;
          const auto relu = with(Activation::relu), gelu = with(Activation::gelu), tanh = with(Activation::gelu_tanh);
          const std::vector<SampleCase> activated{
              {{uniform({3, 8}, t, 1), uniform({16, 8}, t, 2), uniform({16}, t, 3)}, relu, "relu"},
              {{uniform({2, 3}, t, 1), uniform({5, 3}, t, 2)}, relu, "relu, no bias, uneven"},
              {{uniform({3, 8}, t, 1), uniform({16, 8}, t, 2), uniform({16}, t, 3)}, tanh, "gelu_tanh"},
              {{transposed({2, 3, 4}, t, 1), transposed({3, 4}, t, 2), strided({3}, t, 3)}, tanh, "gelu_tanh, strided"},
              {{uniform({0, 4}, t, 1), uniform({3, 4}, t, 2), uniform({3}, t, 3)}, tanh, "gelu_tanh, no rows"},
              {{uniform({4}, t, 1), uniform({2, 4}, t, 2), uniform({2}, t, 3)}, gelu, "gelu of a vector"},
          };
          all.insert(all.end(), activated.begin(), activated.end());
          return all;
        },
});

const RegisterOp registered_twice({
    .name = "feed_forward",
    .signature = "feed_forward(x, weight1, bias1, weight2, bias2, {.activation = Activation::relu})",
    .formula = "linear(linear(x, weight1, bias1, {.activation}), weight2, bias2)",
    .samples =
        [](DType t) {
          const auto with = [](Activation a, bool first = true, bool second = true) {
            return [=](const Inputs& in) {
              size_t at = 3;
              const Tensor b1 = first ? in[at++] : Tensor(), b2 = second ? in[at] : Tensor();
              return Inputs{feed_forward(in[0], in[1], b1, in[2], b2, {.activation = a})};
            };
          };
          using namespace samples;
          const Tensor x = uniform({3, 8}, t, 1), w1 = uniform({16, 8}, t, 2), w2 = uniform({8, 16}, t, 3),
                       b1 = uniform({16}, t, 4), b2 = uniform({8}, t, 5);
          return std::vector<SampleCase>{
              {{x, w1, w2, b1, b2}, with(Activation::relu), "relu"},
              {{x, w1, w2, b1, b2}, with(Activation::gelu_tanh), "gelu_tanh"},
              {{uniform({2, 3}, t, 6), uniform({5, 3}, t, 7), uniform({2, 5}, t, 8), uniform({2}, t, 9)},
               with(Activation::relu, false),
               "one bias, uneven"},
              {{transposed({2, 3, 4}, t, 1), transposed({5, 4}, t, 2), transposed({3, 5}, t, 3)},
               with(Activation::gelu_tanh, false, false),
               "no bias, strided"},
              {{x, w1, w2, b1, b2}, with(Activation::gelu), "gelu"},
              {{uniform({0, 8}, t, 1), w1, w2, b1, b2}, with(Activation::relu), "no rows"},
          };
        },
});
}  // namespace

}  // namespace flame
