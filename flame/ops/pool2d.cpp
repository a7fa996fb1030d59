// max_pool2d and avg_pool2d: the pooling ops, their gradients, and the gradients of those (the same ops again).
#include "flame/ops/pool2d.h"

#include <limits>

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/cpu/pool_kernel.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

// Options with the stride filled in; an average leaves dilation at 1.
struct PoolAttributes {
  Pair kernel, stride, padding, dilation = 1;
  bool count_padding = false, channels_last = false;
  bool operator==(const PoolAttributes&) const = default;
};

Meta plane_meta(const PoolAttributes& a, DType t, const Shape& s) {
  return {t, s, a.channels_last ? channels_last_strides(s) : contiguous_strides(s)};
}

// What all passes share. The plan's buffers are the inputs, then the outputs.
class Pool : public Op {
 public:
  explicit Pool(const PoolAttributes& a) : a_(a) {}
  Layout layout(int, const Meta&) const override {
    return a_.channels_last ? Layout::channels_last : Layout::contiguous;
  }
  void key(Key& k) const override {
    for (int i = 0; i < 2; ++i) k << a_.kernel[i] << a_.stride[i] << a_.padding[i] << a_.dilation[i];
    k << a_.count_padding << a_.channels_last;
  }

 protected:
  PoolSizes sizes(const Shape& x, const Shape& y) const {
    return {x[0],
            x[1],
            x[2],
            x[3],
            y[2],
            y[3],
            {a_.kernel[0], a_.kernel[1]},
            {a_.stride[0], a_.stride[1]},
            {a_.padding[0], a_.padding[1]},
            {a_.dilation[0], a_.dilation[1]},
            a_.channels_last,
            a_.count_padding};
  }
  // `index` and `out`: which buffers they are; an index of -1: none.
  Ref<Plan> plan(PoolPass pass, DType t, const Shape& x, const Shape& y, int index, int out) const {
    return make_ref<Plan>(name(), [fn = pool_kernel(pass, t), p = sizes(x, y), index, out](const Run& r) {
      fn(p, r.buffers[0], index < 0 ? nullptr : static_cast<int32_t*>(r.buffers[index]), r.buffers[out]);
    });
  }
  const PoolAttributes a_;
};

Tensor max_backward(const PoolAttributes& a, const Shape& x, const Tensor& dy, const Tensor& index, Loc loc);
Tensor max_gather(const PoolAttributes& a, const Tensor& x, const Tensor& index, Loc loc);
Tensor average(const PoolAttributes& a, const Shape& y, const Tensor& x, Loc loc);
Tensor average_backward(const PoolAttributes& a, const Shape& x, const Tensor& dy, Loc loc);

// x -> y and the places of the maxima
class MaxPool final : public Pool {
 public:
  MaxPool(const PoolAttributes& a, const Shape& y) : Pool(a), y_(y) {}
  const char* name() const override { return "max_pool2d"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {plane_meta(a_, in[0].dtype(), y_), plane_meta(a_, DType::i32, y_)};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(PoolPass::max, in[0].dtype, in[0].shape, y_, 2, 1);
  }
  bool saves_input(int) const override { return false; }
  bool saves_output(int i) const override { return i == 1; }
  void vjp(Vjp& v) const override {
    v.give(0, max_backward(a_, v.input_meta(0).shape, v.grad(0), v.output(1), v.call_site()));
  }

 private:
  Shape y_;
};

// (dy, index) -> dx
class MaxPoolBackward final : public Pool {
 public:
  MaxPoolBackward(const PoolAttributes& a, const Shape& x) : Pool(a), x_(x) {}
  const char* name() const override { return "max_pool2d_backward"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {plane_meta(a_, in[0].dtype(), x_)};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(PoolPass::max_backward, in[0].dtype, x_, in[0].shape, 1, 2);
  }
  bool saves_input(int i) const override { return i == 1; }
  void vjp(Vjp& v) const override { v.give(0, max_gather(a_, v.grad(0), v.input(1), v.call_site())); }

 private:
  Shape x_;
};

// (x, index) -> the elements of x at the index
class MaxPoolGather final : public Pool {
 public:
  using Pool::Pool;
  const char* name() const override { return "max_pool2d_gather"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {plane_meta(a_, in[0].dtype(), in[1].shape())};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(PoolPass::max_gather, in[0].dtype, in[0].shape, in[1].shape, 1, 2);
  }
  bool saves_input(int i) const override { return i == 1; }
  void vjp(Vjp& v) const override {
    v.give(0, max_backward(a_, v.input_meta(0).shape, v.grad(0), v.input(1), v.call_site()));
  }
};

class AvgPool final : public Pool {
 public:
  AvgPool(const PoolAttributes& a, const Shape& y) : Pool(a), y_(y) {}
  const char* name() const override { return "avg_pool2d"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {plane_meta(a_, in[0].dtype(), y_)};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(PoolPass::average, in[0].dtype, in[0].shape, y_, -1, 1);
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override { v.give(0, average_backward(a_, v.input_meta(0).shape, v.grad(0), v.call_site())); }

 private:
  Shape y_;
};

class AvgPoolBackward final : public Pool {
 public:
  AvgPoolBackward(const PoolAttributes& a, const Shape& x) : Pool(a), x_(x) {}
  const char* name() const override { return "avg_pool2d_backward"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {plane_meta(a_, in[0].dtype(), x_)};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(PoolPass::average_backward, in[0].dtype, x_, in[0].shape, -1, 1);
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override { v.give(0, average(a_, v.input_meta(0).shape, v.grad(0), v.call_site())); }

 private:
  Shape x_;
};

Tensor max_backward(const PoolAttributes& a, const Shape& x, const Tensor& dy, const Tensor& index, Loc loc) {
  return dispatch(make_ref<MaxPoolBackward>(a, x), {dy, index.detach()}, loc);
}
Tensor max_gather(const PoolAttributes& a, const Tensor& x, const Tensor& index, Loc loc) {
  return dispatch(make_ref<MaxPoolGather>(a), {x, index.detach()}, loc);
}
Tensor average(const PoolAttributes& a, const Shape& y, const Tensor& x, Loc loc) {
  return dispatch(make_ref<AvgPool>(a, y), {x}, loc);
}
Tensor average_backward(const PoolAttributes& a, const Shape& x, const Tensor& dy, Loc loc) {
  return dispatch(make_ref<AvgPoolBackward>(a, x), {dy}, loc);
}

void check_options(const char* op, const PoolAttributes& a, Loc loc) {
  for (int i = 0; i < 2; ++i) {
    if (a.kernel[i] < 1 || a.stride[i] < 1 || a.dilation[i] < 1)
      fail<ValueError>(loc,
                       "{}: expected kernel, stride and dilation of 1 or more, got kernel [{}, {}], stride [{}, {}], "
                       "dilation [{}, {}]",
                       op, a.kernel[0], a.kernel[1], a.stride[0], a.stride[1], a.dilation[0], a.dilation[1]);
    const int64_t window = a.dilation[i] * (a.kernel[i] - 1) + 1;
    if (a.padding[i] < 0 || a.padding[i] > window / 2)
      fail<ValueError>(loc, "{}: expected padding of at most half the window of {}, got {}", op, window, a.padding[i]);
  }
}

Shape output_shape(const char* op, const PoolAttributes& a, const Tensor& x, bool ceil_mode, Loc loc) {
  check_defined(op, x, loc);
  if (x.rank() != 4) fail<ShapeError>(loc, "{}: expected x [N, C, H, W], got {}", op, x.shape());
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", op, x.dtype());
  Shape y = x.shape();
  for (int i = 0; i < 2; ++i) {
    const int64_t size = x.shape()[i + 2], window = a.dilation[i] * (a.kernel[i] - 1) + 1;
    const int64_t room = size + 2 * a.padding[i] - window, step = a.stride[i];
    int64_t out = (ceil_mode ? (room + step - 1) / step : room / step) + 1;
    // A last window must start inside the input or the padding before it.
    if (ceil_mode && (out - 1) * step >= size + a.padding[i]) --out;
    if (size < 1 || (room < 0 && !(ceil_mode && room + step > 0)))
      fail<ShapeError>(loc, "{}: a window of {} does not fit into axis {} of x {} with padding {}", op, window, i + 2,
                       x.shape(), a.padding[i]);
    y[i + 2] = out;
  }
  if (x.shape()[2] * x.shape()[3] > std::numeric_limits<int32_t>::max())
    fail<ShapeError>(loc, "{}: expected planes of at most 2^31 - 1 elements, got x {}", op, x.shape());
  return y;
}

bool keeps_channels_last(const Tensor& x) {
  return is_channels_last(x.shape(), x.strides()) && !is_contiguous(x.shape(), x.strides());
}
Pair or_kernel(const Pair& stride, const Pair& kernel) { return stride == Pair(0) ? kernel : stride; }

}  // namespace

Tensor max_pool2d(const Tensor& x, const MaxPool2dOptions& o, Loc loc) {
  PoolAttributes a{
      .kernel = o.kernel, .stride = or_kernel(o.stride, o.kernel), .padding = o.padding, .dilation = o.dilation};
  check_options("max_pool2d", a, loc);
  const Shape y = output_shape("max_pool2d", a, x, o.ceil_mode, loc);
  a.channels_last = keeps_channels_last(x);
  return dispatch_multi(make_ref<MaxPool>(a, y), std::span(&x, 1), loc)[0];
}

Tensor avg_pool2d(const Tensor& x, const AvgPool2dOptions& o, Loc loc) {
  PoolAttributes a{.kernel = o.kernel,
                   .stride = or_kernel(o.stride, o.kernel),
                   .padding = o.padding,
                   .count_padding = o.count_include_pad};
  check_options("avg_pool2d", a, loc);
  const Shape y = output_shape("avg_pool2d", a, x, o.ceil_mode, loc);
  a.channels_last = keeps_channels_last(x);
  return average(a, y, x, loc);
}

namespace {

// Distinct values, so that no maximum has a rival within a difference quotient's step.
Tensor distinct(const Shape& s, DType t) {
  std::vector<double> v(static_cast<size_t>(numel(s)));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>((i * 37 + 11) % 101) / 32 - 1.5;
  return Tensor::from(v, s).to(t);
}
Tensor distinct_channels_last(const Shape& s, DType t) {
  return distinct({s[0], s[2], s[3], s[1]}, t).permute({0, 3, 1, 2});
}

const RegisterOp registered_max({
    .name = "max_pool2d",
    .signature = "max_pool2d(x, {.kernel, .stride = kernel, .padding = 0, .dilation = 1, .ceil_mode = false})",
    .formula = "out[n, c, i, j] = max over r, s of x[n, c, i stride + r dilation - padding, ...]",
    .samples =
        [](DType t) {
          const auto with = [](const MaxPool2dOptions& o) {
            return [o](const std::vector<Tensor>& in) { return std::vector<Tensor>{max_pool2d(in[0], o)}; };
          };
          return std::vector<SampleCase>{
              {{distinct({2, 3, 4, 4}, t)}, with({.kernel = 2}), "plain"},
              {{distinct_channels_last({2, 3, 4, 4}, t)}, with({.kernel = 2}), "channels-last"},
              {{distinct_channels_last({1, 3, 5, 4}, t)},
               with({.kernel = 3, .stride = {2, 1}, .padding = 1}),
               "overlap, channels-last"},
              {{distinct({1, 2, 5, 6}, t)},
               with({.kernel = {3, 2}, .stride = 1, .padding = {1, 0}}),
               "overlap, padding"},
              {{distinct({1, 2, 6, 4}, t).t()},
               with({.kernel = 2, .stride = {1, 2}, .padding = {1, 0}, .dilation = {2, 1}}),
               "dilation, transposed"},
              {{distinct({1, 2, 5, 5}, t)}, with({.kernel = 2, .stride = 3}), "stride over kernel"},
              {{distinct({1, 2, 5, 5}, t)}, with({.kernel = 2, .ceil_mode = true}), "ceil mode"},
              {{distinct({1, 3, 1, 1}, t)}, with({.kernel = 1}), "one pixel"},
              {{distinct({0, 3, 4, 4}, t)}, with({.kernel = 2}), "no pictures"},
          };
        },
});
const RegisterOp registered_avg({
    .name = "avg_pool2d",
    .signature =
        "avg_pool2d(x, {.kernel, .stride = kernel, .padding = 0, .ceil_mode = false, .count_include_pad = true})",
    .formula = "out[n, c, i, j] = mean over r, s of x[n, c, i stride + r - padding, ...]",
    .samples =
        [](DType t) {
          const auto with = [](const AvgPool2dOptions& o) {
            return [o](const std::vector<Tensor>& in) { return std::vector<Tensor>{avg_pool2d(in[0], o)}; };
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({2, 3, 4, 4}, t)}, with({.kernel = 2}), "plain"},
              {{channels_last({2, 3, 4, 5}, t)}, with({.kernel = {2, 3}, .stride = 1}), "overlap, channels-last"},
              {{channels_last({1, 2, 5, 5}, t)},
               with({.kernel = 3, .stride = 2, .padding = 1, .count_include_pad = false}),
               "padding not counted"},
              {{strided({1, 2, 5, 4}, t)}, with({.kernel = 3, .stride = {2, 1}, .padding = 1}), "padding, strided"},
              {{transposed({1, 2, 4, 6}, t)}, with({.kernel = 2, .stride = 3}), "stride over kernel, transposed"},
              {{uniform({1, 2, 5, 5}, t)}, with({.kernel = 2, .ceil_mode = true}), "ceil mode"},
              {{uniform({1, 2, 5, 6}, t)},
               with({.kernel = 3, .stride = 2, .padding = 1, .ceil_mode = true}),
               "ceil mode, padding"},
              {{uniform({2, 1, 1, 1}, t)}, with({.kernel = 1}), "one pixel"},
              {{uniform({0, 2, 4, 4}, t)}, with({.kernel = 2}), "no pictures"},
          };
        },
});
}  // namespace

}  // namespace flame
