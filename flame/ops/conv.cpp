// Convolutions and their two gradients: three bilinear ops, each the derivative of the others, so that any order works.
// A transposed convolution is the data gradient, called by the user.
#include "flame/ops/conv.h"

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/activation.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/conv_few_internal.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"

namespace flame {
namespace {

using Pass = ConvDesc::Pass;

// Options of any number of axes, padding worked out.
struct ConvAttributes {
  Dims stride, padding, padding_after, dilation;
  int64_t groups;
  int axes() const { return stride.rank(); }
};

// By number of axes.
constexpr const char* forward_names[] = {"", "conv1d", "conv2d", "conv3d"};
constexpr const char* transpose_names[] = {"", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"};
constexpr const char* data_names[] = {"", "conv1d_backward_data", "conv2d_backward_data", "conv3d_backward_data"};
constexpr const char* weight_names[] = {"", "conv1d_backward_weight", "conv2d_backward_weight",
                                        "conv3d_backward_weight"};
constexpr const char* spatial_letters[] = {"", "L", "H, W", "D, H, W"};
constexpr const char* window_letters[] = {"", "S", "R, S", "Q, R, S"};

// Channels-last, or contiguous where that is the same.
Meta activation(DType t, const Shape& s) {
  const Strides strides = channels_last_strides(s);
  return {t, s, is_contiguous(s, strides) ? contiguous_strides(s) : strides};
}

// A filter may be channels-last too, and so then is its gradient.
bool filter_is_channels_last(const Meta& m) {
  return is_channels_last(m.shape, m.strides) && !is_contiguous(m.shape, m.strides);
}
Layout filter_layout(const Meta& m) { return filter_is_channels_last(m) ? Layout::channels_last : Layout::contiguous; }
// Whether a GPU's library gets a small filter channels-last: turned by a launch of its own, which a recorded step makes while it
// makes what is convolved.
bool turned_before(const Tensor& w) {
  constexpr int64_t few = 4, most = 1 << 17;  // channels that own kernels take as they lie, and numbers
  return w.device().kind() == Device::Kind::cuda && w.shape()[1] > few && w.numel() <= most;
}

// What the three share: options, how metadata become a description, and the layouts.
class Conv : public Op {
 public:
  Conv(const char* name, const ConvAttributes& a) : a_(a), name_(name) {}
  const char* name() const override { return name_; }
  void key(Key& k) const override {
    k << a_.stride << a_.padding << a_.padding_after << a_.dilation << a_.groups << deterministic() << tf32();
  }

 protected:
  // The same of every pass: each element of y meets a filter.
  static int64_t products(const Meta& w, const Meta& y) {
    return w.shape[0] == 0 ? 0 : 2 * numel(y.shape) * (numel(w.shape) / w.shape[0]);
  }
  ConvDesc described(Pass pass, const Meta& x, const Meta& w, const Meta& y, bool bias = false,
                     Activation activation = Activation::none) const {
    return {pass, x, w, y, a_.stride, a_.padding, a_.padding_after, a_.dilation, a_.groups, bias, activation, tf32()};
  }
  const ConvAttributes a_;

 private:
  static bool tf32() { return matmul_precision() == "high"; }
  const char* name_;
};

Tensor forward(const ConvAttributes& a, const Shape& y, const Tensor& x, const Tensor& w, const Tensor& bias, Loc loc,
               Activation activation = Activation::none);
Tensor backward_data(const char* name, const ConvAttributes& a, const Shape& x, const Tensor& dy, const Tensor& w,
                     Loc loc);
Tensor backward_weight(const ConvAttributes& a, const Meta& w, const Tensor& x, const Tensor& dy, Loc loc);

// All axes but the channels'.
Axes but_channels(int axes) {
  Dims list{0};
  for (int i = 0; i < axes; ++i) list.push_back(i + 2);
  return list;
}

// (x, w, bias or left out) -> y
class ConvForward final : public Conv {
 public:
  ConvForward(const ConvAttributes& a, const Shape& y, bool turned, bool bias, Activation activation)
      : Conv(forward_names[a.axes()], a), y_(y), turned_(turned), bias_(bias), activation_(activation) {}
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override { return {activation(in[0].dtype(), y_)}; }
  Layout layout(int i, const Meta& m) const override {
    return i == 0 || (i == 1 && turned_) ? Layout::channels_last : i == 1 ? filter_layout(m) : Layout::contiguous;
  }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const ConvDesc c = described(Pass::forward, in[0], in[1], out[0], in.size() == 3, activation_);
    return few_channels(d, c) ? few_channels_forward(d, c) : d.conv(c);
  }
  int64_t flops(std::span<const Meta> in, std::span<const Meta> out) const override { return products(in[1], out[0]); }
  void key(Key& k) const override {
    Conv::key(k);
    k << activation_;
  }
  bool saves_input(int i) const override { return i != 2; }
  bool saves_output(int) const override { return activation_ == Activation::relu; }
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    if (!v.needs(0) && v.needs(1) && !v.create_graph() && few_channels_rule(v)) return;
    const Tensor g = activation_ == Activation::relu ? where(v.output(0) <= 0, 0, v.grad(0)) : v.grad(0);
    // First: it joins the island that makes g.
    if (bias_ && v.needs(2)) v.give(2, g.sum(but_channels(a_.axes()), false, loc));
    if (v.needs(0)) v.give(0, backward_data(data_names[a_.axes()], a_, v.input_meta(0).shape, g, v.input(1), loc));
    if (v.needs(1)) v.give(1, backward_weight(a_, v.input_meta(1), v.input(0), g, loc));
  }

 private:
  bool few_channels_rule(Vjp& v) const;

  Shape y_;
  bool turned_, bias_;
  Activation activation_;
};

// (x, dy, (y)) -> (dw, sums of dy), of few channels; with y, dy counts where relu's slope at y is not 0.
class ConvBackwardFew final : public Conv {
 public:
  ConvBackwardFew(const ConvAttributes& a, const Meta& w) : Conv("conv2d_backward_few", a), w_(w) {}
  std::vector<Meta> infer(std::span<const Tensor>, Loc) const override {
    return {w_, contiguous_meta(w_.dtype, {w_.shape[0]})};
  }
  Layout layout(int, const Meta&) const override { return Layout::channels_last; }
  bool differentiable() const override { return false; }  // the rule of a convolution has another way for that
  bool fits(const Tensor& x, const Shape& y) const {
    return few_channels(
        x.device(), described(Pass::backward_weight, activation(x.dtype(), x.shape()), w_, activation(x.dtype(), y)));
  }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return few_channels_backward(d, described(Pass::backward_weight, in[0], out[0], in[1], true,
                                              in.size() == 3 ? Activation::relu : Activation::none));
  }
  int64_t flops(std::span<const Meta> in, std::span<const Meta> out) const override { return products(out[0], in[1]); }

 private:
  const Meta w_;
};
bool ConvForward::few_channels_rule(Vjp& v) const {
  const Meta& w = v.input_meta(1);
  const Ref<ConvBackwardFew> op = make_ref<ConvBackwardFew>(
      a_, filter_is_channels_last(w) ? activation(w.dtype, w.shape) : contiguous_meta(w.dtype, w.shape));
  if (!op->fits(v.input(0), y_)) return false;
  std::vector<Tensor> in{v.input(0), v.grad(0)};
  if (activation_ == Activation::relu) in.push_back(v.output(0));
  const std::vector<Tensor> out = dispatch_multi(op, in, v.call_site());
  if (bias_ && v.needs(2)) v.give(2, out[1]);
  v.give(1, out[0]);
  return true;
}

// (dy, w) -> dx
class ConvBackwardData final : public Conv {
 public:
  ConvBackwardData(const char* name, const ConvAttributes& a, const Shape& x, bool turned)
      : Conv(name, a), x_(x), turned_(turned) {}
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override { return {activation(in[0].dtype(), x_)}; }
  Layout layout(int i, const Meta& m) const override {
    return i == 0 || turned_ ? Layout::channels_last : filter_layout(m);
  }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return d.conv(described(Pass::backward_data, out[0], in[1], in[0]));
  }
  int64_t flops(std::span<const Meta> in, std::span<const Meta>) const override { return products(in[1], in[0]); }
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    const Tensor g = v.grad(0);
    if (v.needs(0)) v.give(0, forward(a_, v.input_meta(0).shape, g, v.input(1), {}, loc));
    if (v.needs(1)) v.give(1, backward_weight(a_, v.input_meta(1), g, v.input(0), loc));
  }

 private:
  Shape x_;
  bool turned_;
};

// (x, dy) -> dw
class ConvBackwardWeight final : public Conv {
 public:
  ConvBackwardWeight(const ConvAttributes& a, const Meta& w)
      : Conv(weight_names[a.axes()], a), w_(w.shape), channels_last_(filter_is_channels_last(w)) {}
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    const DType t = in[0].dtype();
    return {channels_last_ ? activation(t, w_) : contiguous_meta(t, w_)};
  }
  Layout layout(int, const Meta&) const override { return Layout::channels_last; }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const ConvDesc c = described(Pass::backward_weight, in[0], out[0], in[1]);
    if (few_channels(d, c)) return few_channels_backward(d, c);
    return small_weight_gradient_fits(d, c) ? small_weight_gradient(d, c) : d.conv(c);
  }
  int64_t flops(std::span<const Meta> in, std::span<const Meta> out) const override { return products(out[0], in[1]); }
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    const Tensor g = v.grad(0);
    if (v.needs(0)) v.give(0, backward_data(data_names[a_.axes()], a_, v.input_meta(0).shape, v.input(1), g, loc));
    if (v.needs(1)) v.give(1, forward(a_, v.input_meta(1).shape, v.input(0), g, {}, loc));
  }

 private:
  Shape w_;
  bool channels_last_;
};

Tensor forward(const ConvAttributes& a, const Shape& y, const Tensor& x, const Tensor& w, const Tensor& bias, Loc loc,
               Activation activation) {
  const Ref<Op> op = make_ref<ConvForward>(a, y, turned_before(w), bias.defined(), activation);
  return bias.defined() ? dispatch(op, {x, w, bias}, loc) : dispatch(op, {x, w}, loc);
}
Tensor backward_data(const char* name, const ConvAttributes& a, const Shape& x, const Tensor& dy, const Tensor& w,
                     Loc loc) {
  return dispatch(make_ref<ConvBackwardData>(name, a, x, turned_before(w)), {dy, w}, loc);
}
Tensor backward_weight(const ConvAttributes& a, const Meta& w, const Tensor& x, const Tensor& dy, Loc loc) {
  return dispatch(make_ref<ConvBackwardWeight>(a, w), {x, dy}, loc);
}

// A call as the user wrote it.
struct Call {
  const char* op;
  int axes;
  const Tensor &x, &weight, &bias;
  Loc loc;

  void check_ranks(bool transposed) const {
    check_inputs(op, {&x, &weight}, {&bias}, loc);
    if (x.rank() != axes + 2 && x.rank() != axes + 1)
      fail<ShapeError>(loc, "{}: expected x [N, C, {}] or [C, {}], got {}", op, spatial_letters[axes],
                       spatial_letters[axes], x.shape());
    if (weight.rank() != axes + 2)
      fail<ShapeError>(loc, "{}: expected a weight [{}, {}], got {}", op,
                       transposed ? "C, O / groups" : "O, C / groups", window_letters[axes], weight.shape());
  }
  void check_bias(int64_t channels) const {
    if (bias.defined() && bias.shape() != Shape{channels})
      fail<ShapeError>(loc, "{}: expected a bias of shape [{}], got {}", op, channels, bias.shape());
  }
  void check_options(const ConvAttributes& a) const {
    for (int i = 0; i < axes; ++i)
      if (a.stride[i] < 1 || a.padding[i] < 0 || a.dilation[i] < 1)
        fail<ValueError>(loc,
                         "{}: expected stride and dilation of 1 or more and padding of 0 or more, got stride {}, "
                         "padding {}, dilation {}",
                         op, a.stride, a.padding, a.dilation);
    if (a.groups < 1) fail<ValueError>(loc, "{}: expected 1 group or more, got {}", op, a.groups);
  }
  // The floating dtype that x, weight and bias are promoted to.
  DType dtype() const {
    DType t = promote(x.dtype(), weight.dtype());
    if (bias.defined()) t = promote(t, bias.dtype());
    if (!is_float(t))
      fail<DTypeError>(loc, "{}: expected a floating dtype, got {} and {}", op, x.dtype(), weight.dtype());
    return t;
  }
  bool batched() const { return x.rank() == axes + 2; }
  Shape batched_shape() const {
    Shape s = x.shape();
    if (!batched()) s.insert(0, 1);
    return s;
  }
  Tensor batched_x(DType t) const { return (batched() ? x : x.unsqueeze(0, loc)).to(t, loc); }
  Tensor as_given(const Tensor& y) const { return batched() ? y : y.squeeze(0, loc); }
};

// Checks the shapes and gives the result's.
Shape output_shape(const Call& c, const ConvAttributes& a) {
  const Shape x = c.batched_shape(), &w = c.weight.shape();
  if (w[1] * a.groups != x[1])
    fail<ShapeError>(c.loc, "{}: expected x with {} channels for weight {} and {} groups, got {}", c.op,
                     w[1] * a.groups, w, a.groups, c.x.shape());
  if (w[0] % a.groups != 0)
    fail<ShapeError>(c.loc, "{}: {} groups do not divide the {} filters of weight {}", c.op, a.groups, w[0], w);
  Shape y = x;
  y[1] = w[0];
  for (int i = 0; i < c.axes; ++i) {
    const int64_t window = a.dilation[i] * (w[i + 2] - 1) + 1, padded = x[i + 2] + a.padding[i] + a.padding_after[i];
    if (w[i + 2] < 1 || x[i + 2] < 1 || window > padded)
      fail<ShapeError>(c.loc, "{}: a window of {} does not fit into axis {} of x {}, padded to {}", c.op, window,
                       c.x.rank() - c.axes + i, c.x.shape(), padded);
    y[i + 2] = (padded - window) / a.stride[i] + 1;
  }
  return y;
}

template <int axes>
Tensor convolution(const Tensor& x, const Tensor& weight, const Tensor& bias, const ConvOptions<axes>& o, Loc loc) {
  const Call c{forward_names[axes], axes, x, weight, bias, loc};
  const OpScope scope(c.op);
  ConvAttributes a{o.stride.dims(), o.padding.dims(), o.padding.dims(), o.dilation.dims(), o.groups};
  c.check_options(a);
  c.check_ranks(false);
  if (o.padding.same()) {
    if (o.stride != 1) fail<ValueError>(loc, "{}: same padding needs a stride of 1, got {}", c.op, a.stride);
    for (int i = 0; i < axes; ++i) {
      const int64_t total = a.dilation[i] * (weight.shape()[i + 2] - 1);
      a.padding[i] = total / 2;
      a.padding_after[i] = total - total / 2;
    }
  }
  const Shape y = output_shape(c, a);
  c.check_bias(weight.shape()[0]);
  const DType t = c.dtype();
  const bool fused = o.activation == Activation::relu && x.device().fuses();
  const Tensor out = forward(a, y, c.batched_x(t), weight.to(t, loc), bias.defined() ? bias.to(t, loc) : Tensor(), loc,
                             fused ? o.activation : Activation::none);
  return c.as_given(fused ? out : activate(out, o.activation, loc));
}

// The shape whose convolution has the shape of x. Also works out the padding behind it.
Shape transposed_shape(const Call& c, ConvAttributes& a, const Dims& output_padding) {
  const Shape y = c.batched_shape(), &w = c.weight.shape();
  if (w[0] != y[1] || w[0] % a.groups != 0)
    fail<ShapeError>(c.loc,
                     "{}: expected x with the {} channels of weight {} and groups that divide them, got {} and {}",
                     c.op, w[0], w, c.x.shape(), a.groups);
  Shape x = y;
  x[1] = w[1] * a.groups;
  for (int i = 0; i < c.axes; ++i) {
    const int64_t more = output_padding[i], window = a.dilation[i] * (w[i + 2] - 1) + 1;
    if (more < 0 || more >= std::max(a.stride[i], a.dilation[i]))
      fail<ValueError>(c.loc, "{}: expected an output_padding below stride {} or dilation {}, got {}", c.op, a.stride,
                       a.dilation, output_padding);
    x[i + 2] = (y[i + 2] - 1) * a.stride[i] - 2 * a.padding[i] + window + more;
    if (w[i + 2] < 1 || y[i + 2] < 1 || x[i + 2] < 1)
      fail<ShapeError>(c.loc, "{}: x {} and weight {} with padding {} give a size of {} along axis {}", c.op,
                       c.x.shape(), w, a.padding, x[i + 2], c.x.rank() - c.axes + i);
    if (more >= a.stride[i]) a.padding_after[i] -= more;  // no further window fits
  }
  return x;
}

template <int axes>
Tensor transposed(const Tensor& x, const Tensor& weight, const Tensor& bias, const ConvTransposeOptions<axes>& o,
                  Loc loc) {
  const Call c{transpose_names[axes], axes, x, weight, bias, loc};
  const OpScope scope(c.op);
  ConvAttributes a{o.stride.dims(), o.padding.dims(), o.padding.dims(), o.dilation.dims(), o.groups};
  c.check_options(a);
  c.check_ranks(true);
  const Shape out = transposed_shape(c, a, o.output_padding.dims());
  c.check_bias(out[1]);
  const DType t = c.dtype();
  Tensor y = backward_data(c.op, a, out, c.batched_x(t), weight.to(t, loc), loc);
  if (bias.defined()) {
    Shape channels = Dims::filled(axes + 2, 1);
    channels[1] = out[1];
    y = add(y, bias.to(t, loc).reshape(channels, loc), loc);
  }
  return c.as_given(y);
}

}  // namespace

Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Conv1dOptions& options, Loc loc) {
  if (const AutocastCall cast{"conv1d", {&x, &weight, &bias}})
    return conv1d(cast(x, loc), cast(weight, loc), cast(bias, loc), options, loc);
  return convolution(x, weight, bias, options, loc);
}
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Conv2dOptions& options, Loc loc) {
  if (const AutocastCall cast{"conv2d", {&x, &weight, &bias}})
    return conv2d(cast(x, loc), cast(weight, loc), cast(bias, loc), options, loc);
  return convolution(x, weight, bias, options, loc);
}
Tensor conv3d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Conv3dOptions& options, Loc loc) {
  if (const AutocastCall cast{"conv3d", {&x, &weight, &bias}})
    return conv3d(cast(x, loc), cast(weight, loc), cast(bias, loc), options, loc);
  return convolution(x, weight, bias, options, loc);
}
Tensor conv_transpose1d(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const ConvTranspose1dOptions& options, Loc loc) {
  if (const AutocastCall cast{"conv_transpose1d", {&x, &weight, &bias}})
    return conv_transpose1d(cast(x, loc), cast(weight, loc), cast(bias, loc), options, loc);
  return transposed(x, weight, bias, options, loc);
}
Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const ConvTranspose2dOptions& options, Loc loc) {
  if (const AutocastCall cast{"conv_transpose2d", {&x, &weight, &bias}})
    return conv_transpose2d(cast(x, loc), cast(weight, loc), cast(bias, loc), options, loc);
  return transposed(x, weight, bias, options, loc);
}
Tensor conv_transpose3d(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const ConvTranspose3dOptions& options, Loc loc) {
  if (const AutocastCall cast{"conv_transpose3d", {&x, &weight, &bias}})
    return conv_transpose3d(cast(x, loc), cast(weight, loc), cast(bias, loc), options, loc);
  return transposed(x, weight, bias, options, loc);
}

}  // namespace flame
