// conv2d and its two gradients: three bilinear ops, each the derivative of the others, so that any order works.
#include "flame/ops/conv2d.h"

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

using Pass = ConvDesc::Pass;

// Channels-last, or contiguous where that is the same.
Meta activation(DType t, const Shape& s) {
  const Strides strides = channels_last_strides(s);
  return {t, s, is_contiguous(s, strides) ? contiguous_strides(s) : strides};
}

// What the three share: options, how metadata become a description, and the layouts.
class Conv : public Op {
 public:
  explicit Conv(const Conv2dOptions& o) : options_(o) {}
  void key(Key& k) const override {
    const Conv2dOptions& o = options_;
    for (int i = 0; i < 2; ++i) k << o.stride[i] << o.padding[i] << o.dilation[i];
    k << o.groups;
  }

 protected:
  Ref<Plan> plan(Device& d, Pass pass, const Meta& x, const Meta& w, const Meta& y, bool bias = false) const {
    const Conv2dOptions& o = options_;
    return d.conv2d({pass,
                     x,
                     w,
                     y,
                     {o.stride[0], o.stride[1]},
                     {o.padding[0], o.padding[1]},
                     {o.dilation[0], o.dilation[1]},
                     o.groups,
                     bias});
  }
  const Conv2dOptions options_;
};

Tensor forward(const Conv2dOptions& o, const Shape& y, const Tensor& x, const Tensor& w, const Tensor& bias, Loc loc);
Tensor backward_data(const Conv2dOptions& o, const Shape& x, const Tensor& dy, const Tensor& w, Loc loc);
Tensor backward_weight(const Conv2dOptions& o, const Shape& w, const Tensor& x, const Tensor& dy, Loc loc);

// (x, w, bias or left out) -> y
class ConvForward final : public Conv {
 public:
  ConvForward(const Conv2dOptions& o, const Shape& y, bool bias) : Conv(o), y_(y), bias_(bias) {}
  const char* name() const override { return "conv2d"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override { return {activation(in[0].dtype(), y_)}; }
  Layout layout(int i, const Meta&) const override { return i == 0 ? Layout::channels_last : Layout::contiguous; }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return plan(d, Pass::forward, in[0], in[1], out[0], in.size() == 3);
  }
  bool saves_input(int i) const override { return i != 2; }
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    const Tensor g = v.grad(0);
    if (bias_ && v.needs(2)) v.give(2, g.sum({0, 2, 3}, false, loc));  // first: it joins the island that makes g
    if (v.needs(0)) v.give(0, backward_data(options_, v.input_meta(0).shape, g, v.input(1), loc));
    if (v.needs(1)) v.give(1, backward_weight(options_, v.input_meta(1).shape, v.input(0), g, loc));
  }

 private:
  Shape y_;
  bool bias_;
};

// (dy, w) -> dx
class ConvBackwardData final : public Conv {
 public:
  ConvBackwardData(const Conv2dOptions& o, const Shape& x) : Conv(o), x_(x) {}
  const char* name() const override { return "conv2d_backward_data"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override { return {activation(in[0].dtype(), x_)}; }
  Layout layout(int i, const Meta&) const override { return i == 0 ? Layout::channels_last : Layout::contiguous; }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return plan(d, Pass::backward_data, out[0], in[1], in[0]);
  }
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    const Tensor g = v.grad(0);
    if (v.needs(0)) v.give(0, forward(options_, v.input_meta(0).shape, g, v.input(1), {}, loc));
    if (v.needs(1)) v.give(1, backward_weight(options_, v.input_meta(1).shape, g, v.input(0), loc));
  }

 private:
  Shape x_;
};

// (x, dy) -> dw
class ConvBackwardWeight final : public Conv {
 public:
  ConvBackwardWeight(const Conv2dOptions& o, const Shape& w) : Conv(o), w_(w) {}
  const char* name() const override { return "conv2d_backward_weight"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), w_)};
  }
  Layout layout(int, const Meta&) const override { return Layout::channels_last; }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return plan(d, Pass::backward_weight, in[0], out[0], in[1]);
  }
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    const Tensor g = v.grad(0);
    if (v.needs(0)) v.give(0, backward_data(options_, v.input_meta(0).shape, v.input(1), g, loc));
    if (v.needs(1)) v.give(1, forward(options_, v.input_meta(1).shape, v.input(0), g, {}, loc));
  }

 private:
  Shape w_;
};

Tensor forward(const Conv2dOptions& o, const Shape& y, const Tensor& x, const Tensor& w, const Tensor& bias, Loc loc) {
  if (!bias.defined()) return dispatch(make_ref<ConvForward>(o, y, false), {x, w}, loc);
  return dispatch(make_ref<ConvForward>(o, y, true), {x, w, bias}, loc);
}
Tensor backward_data(const Conv2dOptions& o, const Shape& x, const Tensor& dy, const Tensor& w, Loc loc) {
  return dispatch(make_ref<ConvBackwardData>(o, x), {dy, w}, loc);
}
Tensor backward_weight(const Conv2dOptions& o, const Shape& w, const Tensor& x, const Tensor& dy, Loc loc) {
  return dispatch(make_ref<ConvBackwardWeight>(o, w), {x, dy}, loc);
}

void check_options(const Conv2dOptions& o, Loc loc) {
  for (int i = 0; i < 2; ++i)
    if (o.stride[i] < 1 || o.padding[i] < 0 || o.dilation[i] < 1)
      fail<ValueError>(
          loc,
          "conv2d: expected stride and dilation of 1 or more and padding of 0 or more, got stride [{}, {}], "
          "padding [{}, {}], dilation [{}, {}]",
          o.stride[0], o.stride[1], o.padding[0], o.padding[1], o.dilation[0], o.dilation[1]);
  if (o.groups < 1) fail<ValueError>(loc, "conv2d: expected 1 group or more, got {}", o.groups);
}

// Checks the shapes and gives the result's.
Shape output_shape(const Conv2dOptions& o, const Shape& x, const Shape& w, Loc loc) {
  if (x.rank() != 4) fail<ShapeError>(loc, "conv2d: expected x [N, C, H, W], got {}", x);
  if (w.rank() != 4) fail<ShapeError>(loc, "conv2d: expected a weight [O, C / groups, R, S], got {}", w);
  if (w[1] * o.groups != x[1])
    fail<ShapeError>(loc, "conv2d: expected x with {} channels for weight {} and {} groups, got {}", w[1] * o.groups, w,
                     o.groups, x);
  if (w[0] % o.groups != 0)
    fail<ShapeError>(loc, "conv2d: {} groups do not divide the {} filters of weight {}", o.groups, w[0], w);
  Shape y{x[0], w[0], 0, 0};
  for (int i = 0; i < 2; ++i) {
    const int64_t window = o.dilation[i] * (w[i + 2] - 1) + 1, padded = x[i + 2] + 2 * o.padding[i];
    if (w[i + 2] < 1 || window > padded)
      fail<ShapeError>(loc, "conv2d: a window of {} does not fit into axis {} of x {}, padded to {}", window, i + 2, x,
                       padded);
    y[i + 2] = (padded - window) / o.stride[i] + 1;
  }
  return y;
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Conv2dOptions& options, Loc loc) {
  check_options(options, loc);
  check_inputs("conv2d", {&x, &weight}, {&bias}, loc);
  const Shape y = output_shape(options, x.shape(), weight.shape(), loc);
  if (bias.defined() && bias.shape() != Shape{weight.shape()[0]})
    fail<ShapeError>(loc, "conv2d: expected a bias of shape [{}], got {}", weight.shape()[0], bias.shape());
  DType t = promote(x.dtype(), weight.dtype());
  if (bias.defined()) t = promote(t, bias.dtype());
  if (!is_float(t))
    fail<DTypeError>(loc, "conv2d: expected a floating dtype, got {} and {}", x.dtype(), weight.dtype());
  return forward(options, y, x.to(t, loc), weight.to(t, loc), bias.defined() ? bias.to(t, loc) : Tensor(), loc);
}

namespace {
const RegisterOp registered({
    .name = "conv2d",
    .signature = "conv2d(x, weight, bias = {}, {.stride = 1, .padding = 0, .dilation = 1, .groups = 1})",
    .formula = "out[n, o, i, j] = bias[o] + sum over c, r, s of weight[o, c, r, s] x[n, c, i stride + r dilation - "
               "padding, ...]",
    .samples =
        [](DType t) {
          const auto with = [](const Conv2dOptions& o) {
            return [o](const std::vector<Tensor>& in) {
              return std::vector<Tensor>{conv2d(in[0], in[1], in.size() > 2 ? in[2] : Tensor(), o)};
            };
          };
          using namespace samples;
          const Tensor bias = uniform({4}, t, 3);
          return std::vector<SampleCase>{
              {{uniform({2, 3, 4, 5}, t, 1), uniform({4, 3, 3, 2}, t, 2), bias}, with({}), "plain"},
              {{channels_last({2, 3, 4, 4}, t, 1), uniform({4, 3, 3, 3}, t, 2)},
               with({.padding = 1}),
               "channels-last, no bias"},
              {{uniform({1, 2, 5, 6}, t, 1), transposed({4, 2, 2, 2}, t, 2), bias},
               with({.stride = {2, 3}}),
               "stride over kernel"},
              {{strided({1, 2, 3, 4}, t, 1), uniform({4, 2, 3, 3}, t, 2), bias}, with({.padding = {2, 1}}), "padding"},
              {{uniform({1, 1, 6, 7}, t, 1), uniform({4, 1, 2, 3}, t, 2), bias},
               with({.dilation = {3, 2}}),
               "dilation, one channel"},
              {{uniform({2, 4, 3, 3}, t, 1), strided({4, 2, 2, 2}, t, 2), bias}, with({.groups = 2}), "groups"},
              {{channels_last({1, 4, 4, 4}, t, 1), uniform({4, 1, 3, 3}, t, 2), bias},
               with({.padding = 1, .groups = 4}),
               "groups = channels"},
              {{uniform({2, 3, 3, 2}, t, 1), uniform({4, 3, 1, 1}, t, 2), bias}, with({.stride = 2}), "1x1"},
              {{uniform({1, 2, 1, 1}, t, 1), uniform({4, 2, 3, 3}, t, 2), bias},
               with({.stride = 2, .padding = 2, .dilation = 2}),
               "one pixel, mostly padding"},
              {{uniform({0, 2, 3, 3}, t, 1), uniform({4, 2, 2, 2}, t, 2), bias}, with({}), "no pictures"},
          };
        },
});
}  // namespace

}  // namespace flame
