// Pooling: the ops over windows, their gradients, and the gradients of those (the same ops again).
#include "flame/ops/pool.h"

#include <algorithm>
#include <limits>

#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/pool_device_internal.h"
#include "flame/ops/reduce.h"

namespace flame {
namespace {

// Options of any number of axes, with the stride filled in; an average leaves dilation at 1.
struct PoolAttributes {
  Dims kernel, stride, padding, dilation;  // empty if adaptive
  bool ceil_mode = false, count_padding = false, channels_last = false, adaptive = false;
  int64_t divisor = 0;
};

Meta plane_meta(const PoolAttributes& a, DType t, const Shape& s) {
  return {t, s, a.channels_last ? channels_last_strides(s) : contiguous_strides(s)};
}

// What all passes share. The plan's buffers are the inputs, then the outputs.
class Pool : public Op {
 public:
  Pool(const char* name, const PoolAttributes& a) : a_(a), name_(name) {}
  const char* name() const override { return name_; }
  Layout layout(int, const Meta&) const override {
    return a_.channels_last ? Layout::channels_last : Layout::contiguous;
  }
  void key(Key& k) const override {
    k << a_.kernel << a_.stride << a_.padding << a_.dilation << a_.count_padding << a_.channels_last << a_.adaptive
      << a_.divisor;
  }

 protected:
  PoolSizes sizes(const Shape& x, const Shape& y) const {
    PoolSizes p{x[0], x[1], {}, a_.channels_last, a_.adaptive, a_.count_padding, a_.divisor};
    const int axes = x.rank() - 2;
    for (int i = 0; i < axes; ++i) {
      PoolAxis& axis = p.axis[3 - axes + i];
      axis.size = x[i + 2];
      axis.out = y[i + 2];
      if (a_.adaptive) continue;
      axis.kernel = a_.kernel[i];
      axis.stride = std::min(a_.stride[i], x[i + 2] + 2 * a_.padding[i]);  // beyond it there is one window
      axis.padding = a_.padding[i];
      axis.dilation = a_.dilation[i];
    }
    return p;
  }
  // `index` and `out`: which buffers they are; an index of -1: none.
  Ref<Plan> plan(PoolFn fn, const Shape& x, const Shape& y, int index, int out) const {
    return make_ref<Plan>(name(), [fn, p = sizes(x, y), index, out](const Run& r) {
      fn(p, r.buffers[0], index < 0 ? nullptr : static_cast<int32_t*>(r.buffers[index]), r.buffers[out]);
    });
  }
  // The same on a device that compiles text; `place`: the index's dtype.
  Ref<Plan> plan(Device& d, PoolPass pass, DType t, const Shape& x, const Shape& y, int index, int out,
                 DType place = DType::i32) const {
    return device_pool(d, {name(), pass, t, place, index, out}, sizes(x, y));
  }
  const PoolAttributes a_;
  const char* name_;
};

Tensor max_backward(const char* name, const PoolAttributes& a, const Shape& x, const Tensor& dy, const Tensor& index,
                    Loc loc);
Tensor max_gather(const char* name, const PoolAttributes& a, const Tensor& x, const Tensor& index, Loc loc);
Tensor average(const char* name, const PoolAttributes& a, const Shape& y, const Tensor& x, Loc loc);
Tensor average_backward(const char* name, const PoolAttributes& a, const Shape& x, const Tensor& dy, Loc loc);

// x -> y and the places of the maxima; on a GPU their numbers in the window (uint8) where nothing but the gradient asks for them
class MaxPool final : public Pool {
 public:
  // `places`: the second result is wanted as it is.
  MaxPool(const char* name, const PoolAttributes& a, const Shape& y, bool places)
      : Pool(name, a), y_(y), places_(places) {}
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    const bool numbers = !places_ && !in[0].device().host_accessible() && has_fixed_windows(sizes(in[0].shape(), y_));
    return {plane_meta(a_, in[0].dtype(), y_), plane_meta(a_, numbers ? DType::u8 : DType::i32, y_)};
  }
  void key(Key& k) const override {
    Pool::key(k);
    k << PoolPass::max << places_;
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(max_pool_kernel(PoolPass::max, in[0].dtype), in[0].shape, y_, 2, 1);
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return plan(d, PoolPass::max, in[0].dtype, in[0].shape, y_, 2, 1, out[1].dtype);
  }
  bool saves_input(int) const override { return false; }
  bool saves_output(int i) const override { return i == 1; }
  void vjp(Vjp& v) const override {
    v.give(0, max_backward(name_, a_, v.input_meta(0).shape, v.grad(0), v.output(1), v.call_site()));
  }

 private:
  Shape y_;
  bool places_;
};

// (dy, index) -> dx
class MaxPoolBackward final : public Pool {
 public:
  MaxPoolBackward(const char* name, const PoolAttributes& a, const Shape& x) : Pool(name, a), x_(x) {}
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {plane_meta(a_, in[0].dtype(), x_)};
  }
  void key(Key& k) const override {
    Pool::key(k);
    k << PoolPass::max_backward;
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(max_pool_kernel(PoolPass::max_backward, in[0].dtype), x_, in[0].shape, 1, 2);
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(d, PoolPass::max_backward, in[0].dtype, x_, in[0].shape, 1, 2, in[1].dtype);
  }
  bool saves_input(int i) const override { return i == 1; }
  void vjp(Vjp& v) const override { v.give(0, max_gather(name_, a_, v.grad(0), v.input(1), v.call_site())); }

 private:
  Shape x_;
};

// (x, index) -> the elements of x at the index
class MaxPoolGather final : public Pool {
 public:
  using Pool::Pool;
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {plane_meta(a_, in[0].dtype(), in[1].shape())};
  }
  void key(Key& k) const override {
    Pool::key(k);
    k << PoolPass::max_gather;
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(max_pool_kernel(PoolPass::max_gather, in[0].dtype), in[0].shape, in[1].shape, 1, 2);
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(d, PoolPass::max_gather, in[0].dtype, in[0].shape, in[1].shape, 1, 2, in[1].dtype);
  }
  bool saves_input(int i) const override { return i == 1; }
  void vjp(Vjp& v) const override {
    v.give(0, max_backward(name_, a_, v.input_meta(0).shape, v.grad(0), v.input(1), v.call_site()));
  }
};

class AvgPool final : public Pool {
 public:
  AvgPool(const char* name, const PoolAttributes& a, const Shape& y) : Pool(name, a), y_(y) {}
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {plane_meta(a_, in[0].dtype(), y_)};
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(avg_pool_kernel(PoolPass::average, in[0].dtype), in[0].shape, y_, -1, 1);
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(d, PoolPass::average, in[0].dtype, in[0].shape, y_, -1, 1);
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override {
    v.give(0, average_backward(name_, a_, v.input_meta(0).shape, v.grad(0), v.call_site()));
  }

 private:
  Shape y_;
};

class AvgPoolBackward final : public Pool {
 public:
  AvgPoolBackward(const char* name, const PoolAttributes& a, const Shape& x) : Pool(name, a), x_(x) {}
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {plane_meta(a_, in[0].dtype(), x_)};
  }
  void key(Key& k) const override {
    Pool::key(k);
    k << PoolPass::average_backward;
  }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(avg_pool_kernel(PoolPass::average_backward, in[0].dtype), x_, in[0].shape, -1, 1);
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    return plan(d, PoolPass::average_backward, in[0].dtype, x_, in[0].shape, -1, 1);
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override { v.give(0, average(name_, a_, v.input_meta(0).shape, v.grad(0), v.call_site())); }

 private:
  Shape x_;
};

Tensor max_backward(const char* name, const PoolAttributes& a, const Shape& x, const Tensor& dy, const Tensor& index,
                    Loc loc) {
  return dispatch(make_ref<MaxPoolBackward>(name, a, x), {dy, index.detach()}, loc);
}
Tensor max_gather(const char* name, const PoolAttributes& a, const Tensor& x, const Tensor& index, Loc loc) {
  return dispatch(make_ref<MaxPoolGather>(name, a), {x, index.detach()}, loc);
}
Tensor average(const char* name, const PoolAttributes& a, const Shape& y, const Tensor& x, Loc loc) {
  return dispatch(make_ref<AvgPool>(name, a, y), {x}, loc);
}
Tensor average_backward(const char* name, const PoolAttributes& a, const Shape& x, const Tensor& dy, Loc loc) {
  return dispatch(make_ref<AvgPoolBackward>(name, a, x), {dy}, loc);
}

// A call as the user wrote it.
struct Call {
  static constexpr int64_t most = std::numeric_limits<int32_t>::max();  // of a place in a plane
  const char* op;
  int axes;
  const Tensor& x;
  Loc loc;

  bool batched() const { return x.rank() == axes + 2; }
  Tensor batched_x() const { return batched() ? x : x.unsqueeze(0, loc); }
  Tensor as_given(const Tensor& y) const { return batched() ? y : y.squeeze(0, loc); }

  void check_x() const {
    check_defined(op, x, loc);
    constexpr const char* letters[] = {"", "L", "H, W", "D, H, W"};
    if (x.rank() != axes + 2 && x.rank() != axes + 1)
      fail<ShapeError>(loc, "{}: expected x [N, C, {}] or [C, {}], got {}", op, letters[axes], letters[axes],
                       x.shape());
    if (!is_float(x.dtype())) fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", op, x.dtype());
    int64_t plane = 1;
    for (int i = 0; i < axes; ++i) plane *= x.shape()[x.rank() - axes + i];
    if (plane < 1) fail<ShapeError>(loc, "{}: expected elements to pool, got x {}", op, x.shape());
    if (plane > most)
      fail<ShapeError>(loc, "{}: expected planes of at most 2^31 - 1 elements, got x {}", op, x.shape());
  }
  void check_options(const PoolAttributes& a) const {
    for (int i = 0; i < axes; ++i) {
      for (int64_t n : {a.kernel[i], a.stride[i], a.dilation[i], a.padding[i]})
        if (n > most)
          fail<ValueError>(loc, "{}: expected options below 2^31, got kernel {}, stride {}, padding {}, dilation {}",
                           op, a.kernel, a.stride, a.padding, a.dilation);
      if (a.kernel[i] < 1 || a.stride[i] < 1 || a.dilation[i] < 1)
        fail<ValueError>(loc,
                         "{}: expected kernel, stride and dilation of 1 or more, got kernel {}, stride {}, dilation {}",
                         op, a.kernel, a.stride, a.dilation);
      const int64_t window = a.dilation[i] * (a.kernel[i] - 1) + 1;
      if (a.padding[i] < 0 || a.padding[i] > window / 2)
        fail<ValueError>(loc, "{}: expected padding of at most half the window of {}, got {}", op, window,
                         a.padding[i]);
    }
  }
  // The result's shape, batched.
  Shape output_shape(const PoolAttributes& a) const {
    Shape y = batched_x().shape();
    for (int i = 0; i < axes; ++i) {
      const int64_t size = y[i + 2], window = a.dilation[i] * (a.kernel[i] - 1) + 1;
      if (window > most || size + 2 * a.padding[i] > most)
        fail<ShapeError>(loc, "{}: expected windows and padded axes below 2^31, got a window of {} and {} + 2 * {}", op,
                         window, size, a.padding[i]);
      const int64_t room = size + 2 * a.padding[i] - window, step = a.stride[i];
      int64_t out = (a.ceil_mode ? (room + step - 1) / step : room / step) + 1;
      // A last window must start inside the input or the padding before it.
      if (a.ceil_mode && (out - 1) * step >= size + a.padding[i]) --out;
      if (room < 0 && !(a.ceil_mode && room + step > 0))
        fail<ShapeError>(loc, "{}: a window of {} does not fit into axis {} of x {} with padding {}", op, window,
                         x.rank() - axes + i, x.shape(), a.padding[i]);
      y[i + 2] = out;
    }
    return y;
  }
};

bool keeps_channels_last(const Tensor& x) {
  return is_channels_last(x.shape(), x.strides()) && !is_contiguous(x.shape(), x.strides());
}

// Everything but the kernel itself: checks, layout, and an input without a batch.
struct Ready {
  Tensor x;
  PoolAttributes a;
  Shape y;
};
Ready ready(const Call& c, PoolAttributes a) {
  if (a.stride == Dims::filled(c.axes, 0)) a.stride = a.kernel;
  c.check_options(a);
  c.check_x();
  Ready r{c.batched_x(), a, c.output_shape(a)};
  check_sizes(c.op, r.y, c.loc);
  r.a.channels_last = keeps_channels_last(r.x);
  return r;
}
Ready ready(const Call& c, const Dims& output_size) {
  c.check_x();
  Ready r{c.batched_x(), {}, {}};
  r.y = r.x.shape();
  bool even = true;
  for (int i = 0; i < c.axes; ++i) {
    if (output_size[i] < keep_size)
      fail<ValueError>(c.loc, "{}: expected an output size of 0 or more, or keep_size, got {}", c.op, output_size);
    if (output_size[i] != keep_size) r.y[i + 2] = output_size[i];
    even &= r.y[i + 2] > 0 && r.x.shape()[i + 2] % r.y[i + 2] == 0;
  }
  check_sizes(c.op, r.y, c.loc);
  if (even) {  // windows of one size: the plain op
    for (int i = 0; i < c.axes; ++i) r.a.kernel.push_back(r.x.shape()[i + 2] / r.y[i + 2]);
    r.a.stride = r.a.kernel;
    r.a.padding = Dims::filled(c.axes, 0);
    r.a.dilation = Dims::filled(c.axes, 1);
    r.a.channels_last = keeps_channels_last(r.x);
  } else {
    r.a.adaptive = r.a.channels_last = true;
  }
  return r;
}

MaxPooled max_pooled(const Call& c, const Ready& r, bool places) {
  const std::vector<Tensor> out = dispatch_multi(make_ref<MaxPool>(c.op, r.a, r.y, places), std::span(&r.x, 1), c.loc);
  return {c.as_given(out[0]), places ? c.as_given(out[1]).to(DType::i64, c.loc) : Tensor()};
}

template <int axes>
MaxPooled max_pool(const Tensor& x, const MaxPoolOptions<axes>& o, bool places, Loc loc) {
  constexpr const char* names[] = {"", "max_pool1d", "max_pool2d", "max_pool3d"};
  const Call c{names[axes], axes, x, loc};
  const OpScope scope(c.op);
  return max_pooled(c,
                    ready(c, PoolAttributes{.kernel = o.kernel.dims(),
                                            .stride = o.stride.dims(),
                                            .padding = o.padding.dims(),
                                            .dilation = o.dilation.dims(),
                                            .ceil_mode = o.ceil_mode}),
                    places);
}
template <int axes>
MaxPooled adaptive_max_pool(const Tensor& x, const PerAxis<axes>& size, bool places, Loc loc) {
  constexpr const char* names[] = {"", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"};
  const Call c{names[axes], axes, x, loc};
  const OpScope scope(c.op);
  return max_pooled(c, ready(c, size.dims()), places);
}
template <int axes>
Tensor avg_pool(const Tensor& x, const AvgPoolOptions<axes>& o, Loc loc) {
  constexpr const char* names[] = {"", "avg_pool1d", "avg_pool2d", "avg_pool3d"};
  const Call c{names[axes], axes, x, loc};
  const OpScope scope(c.op);
  if (o.divisor_override < 0)
    fail<ValueError>(loc, "{}: expected a divisor of 1 or more, or 0 for the elements, got {}", c.op,
                     o.divisor_override);
  const Ready r = ready(c, PoolAttributes{.kernel = o.kernel.dims(),
                                          .stride = o.stride.dims(),
                                          .padding = o.padding.dims(),
                                          .dilation = Dims::filled(axes, 1),
                                          .ceil_mode = o.ceil_mode,
                                          .count_padding = o.count_include_pad,
                                          .divisor = o.divisor_override});
  return c.as_given(average(c.op, r.a, r.y, r.x, loc));
}
template <int axes>
Tensor adaptive_avg_pool(const Tensor& x, const PerAxis<axes>& size, Loc loc) {
  constexpr const char* names[] = {"", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"};
  const Call c{names[axes], axes, x, loc};
  const OpScope scope(c.op);
  if (size == 1) {  // of whole planes: a reduction
    c.check_x();
    Dims all;
    for (int i = 0; i < axes; ++i) all.push_back(i - axes);
    return mean(x, all, true, loc);
  }
  const Ready r = ready(c, size.dims());
  return c.as_given(average(c.op, r.a, r.y, r.x, loc));
}

}  // namespace

Tensor max_pool1d(const Tensor& x, const MaxPool1dOptions& o, Loc loc) { return max_pool(x, o, false, loc).values; }
Tensor max_pool2d(const Tensor& x, const MaxPool2dOptions& o, Loc loc) { return max_pool(x, o, false, loc).values; }
Tensor max_pool3d(const Tensor& x, const MaxPool3dOptions& o, Loc loc) { return max_pool(x, o, false, loc).values; }
Tensor avg_pool1d(const Tensor& x, const AvgPool1dOptions& o, Loc loc) { return avg_pool(x, o, loc); }
Tensor avg_pool2d(const Tensor& x, const AvgPool2dOptions& o, Loc loc) { return avg_pool(x, o, loc); }
Tensor avg_pool3d(const Tensor& x, const AvgPool3dOptions& o, Loc loc) { return avg_pool(x, o, loc); }

Tensor adaptive_max_pool1d(const Tensor& x, const PerAxis<1>& n, Loc loc) {
  return adaptive_max_pool(x, n, false, loc).values;
}
Tensor adaptive_max_pool2d(const Tensor& x, const PerAxis<2>& n, Loc loc) {
  return adaptive_max_pool(x, n, false, loc).values;
}
Tensor adaptive_max_pool3d(const Tensor& x, const PerAxis<3>& n, Loc loc) {
  return adaptive_max_pool(x, n, false, loc).values;
}
Tensor adaptive_avg_pool1d(const Tensor& x, const PerAxis<1>& n, Loc loc) { return adaptive_avg_pool(x, n, loc); }
Tensor adaptive_avg_pool2d(const Tensor& x, const PerAxis<2>& n, Loc loc) { return adaptive_avg_pool(x, n, loc); }
Tensor adaptive_avg_pool3d(const Tensor& x, const PerAxis<3>& n, Loc loc) { return adaptive_avg_pool(x, n, loc); }

MaxPooled max_pool1d_with_indices(const Tensor& x, const MaxPool1dOptions& o, Loc loc) {
  return max_pool(x, o, true, loc);
}
MaxPooled max_pool2d_with_indices(const Tensor& x, const MaxPool2dOptions& o, Loc loc) {
  return max_pool(x, o, true, loc);
}
MaxPooled max_pool3d_with_indices(const Tensor& x, const MaxPool3dOptions& o, Loc loc) {
  return max_pool(x, o, true, loc);
}
MaxPooled adaptive_max_pool1d_with_indices(const Tensor& x, const PerAxis<1>& n, Loc loc) {
  return adaptive_max_pool(x, n, true, loc);
}
MaxPooled adaptive_max_pool2d_with_indices(const Tensor& x, const PerAxis<2>& n, Loc loc) {
  return adaptive_max_pool(x, n, true, loc);
}
MaxPooled adaptive_max_pool3d_with_indices(const Tensor& x, const PerAxis<3>& n, Loc loc) {
  return adaptive_max_pool(x, n, true, loc);
}

}  // namespace flame
