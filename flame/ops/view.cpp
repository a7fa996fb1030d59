// Views: other strides over the same storage, and the opposite view as gradient. Copies only where no strides fit.
#include "flame/ops/view.h"

#include <algorithm>
#include <cstdlib>

#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/device/counters.h"
#include "flame/device/cpu/strided_copy.h"
#include "flame/device/out_of_range.h"
#include "flame/device/recorder.h"
#include "flame/fuse/island.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/reduce.h"
#include "flame/ops/view_internal.h"

namespace flame {
namespace {

bool same_but_ones(const Shape& a, const Shape& b) {
  int i = 0, j = 0;
  for (;; ++i, ++j) {
    while (i < a.rank() && a[i] == 1) ++i;
    while (j < b.rank() && b[j] == 1) ++j;
    if (i == a.rank() || j == b.rank()) return i == a.rank() && j == b.rank();
    if (a[i] != b[j]) return false;
  }
}

// Strides that read `from` (of strides `st`) in row-major order as `to`; false if there are none.
bool view_strides(const Shape& from, const Strides& st, const Shape& to, Strides& out) {
  out = contiguous_strides(to);
  if (numel(from) == 0) return true;
  int j = to.rank() - 1;
  for (int i = from.rank() - 1; i >= 0;) {
    // A run of axes that walks evenly: the largest piece that a stretch of `to` may cover.
    int64_t run = from[i], step = st[i];
    int k = i - 1;
    for (; k >= 0 && (from[k] == 1 || run == 1 || st[k] == step * run); --k) {
      if (run == 1) step = st[k];
      run *= from[k];
    }
    int64_t covered = 1;
    for (; j >= 0 && (covered < run || to[j] == 1); --j) {
      out[j] = step * covered;
      covered *= to[j];
    }
    if (covered != run) return false;
    i = k;
  }
  return true;
}

Shape resolve(const char* op, const Shape& from, const Shape& asked, Loc loc) {
  Shape to = asked;
  int unknown = -1;
  int64_t known = 1;
  for (int i = 0; i < to.rank(); ++i) {
    if (to[i] == -1 && unknown < 0) unknown = i;
    else if (to[i] < 0) fail<ShapeError>(loc, "{}: expected sizes of 0 or more and at most one -1, got {}", op, asked);
    else known *= to[i];
  }
  const int64_t have = numel(from);
  if (unknown >= 0) {
    if (known == 0 || have % known != 0)
      fail<ShapeError>(loc, "{}: {} with {} elements does not fit into {}, whose known sizes make {}", op, from, have,
                       asked, known);
    to[unknown] = have / known;
  } else if (known != have) {
    fail<ShapeError>(loc, "{}: {} has {} elements, {} has {}", op, from, have, asked, known);
  }
  return to;
}

// Zeros, and a piece in them. Its gradient is the slice it was put at.
class SliceScatter final : public Op {
 public:
  SliceScatter(const Shape& shape, int axis, int64_t start, int64_t step)
      : shape_(shape), axis_(axis), start_(start), step_(step) {}
  const char* name() const override { return "slice_scatter"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), shape_)};
  }
  void key(Key& k) const override { k << shape_ << axis_ << start_ << step_; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const size_t element = size_of(in[0].dtype);
    Strides to = out[0].strides;
    const int64_t offset = to[axis_] * start_ * static_cast<int64_t>(element);
    to[axis_] *= step_;
    return make_ref<Plan>(name(), [bytes = numel(shape_) * static_cast<int64_t>(element), offset,
                                   copy = StridedCopy(in[0].shape, to, in[0].strides, element)](const Run& r) {
      char* out = static_cast<char*>(r.buffers[1]);
      parallel_for(bytes, 8 * elements_per_piece,
                   [&](int64_t begin, int64_t end) { std::memset(out + begin, 0, static_cast<size_t>(end - begin)); });
      copy(out + offset, r.buffers[0]);
    });
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const size_t element = size_of(in[0].dtype);
    Strides to = out[0].strides;
    const int64_t offset = to[axis_] * start_ * static_cast<int64_t>(element);
    to[axis_] *= step_;
    return make_ref<Plan>(name(), [&d, bytes = static_cast<size_t>(numel(shape_)) * element, offset,
                                   copy = DeviceCopy(d, in[0].shape, to, in[0].strides, element)](const Run& r) {
      d.fill_bytes(r.buffers[1], 0, bytes);
      copy(static_cast<char*>(r.buffers[1]) + offset, r.buffers[0]);
    });
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override;

 private:
  Shape shape_;
  int axis_;
  int64_t start_, step_;
};

void SliceScatter::vjp(Vjp& v) const {
  v.give(0, sliced("slice", v.grad(0), axis_, {start_, v.input_meta(0).shape[axis_], step_}, v.call_site()));
}

// Bytes cross between devices here and in host reads, nowhere else.
Ref<Value> transferred(const Tensor& x, Device& d, Loc loc) {
  if (Recorder::current())
    fail<RecordError>(loc,
                      "to: a tensor was moved from {} to {} inside a recorded step; pass it as an argument instead",
                      x.device().name(), d.name());
  note_flush_reason("copied to another device");
  const Tensor dense = x.detach().contiguous(loc);
  void* from = dense.data();
  Tensor out = Tensor::empty(x.shape(), x.dtype(), d, loc);
  const size_t bytes = static_cast<size_t>(x.numel()) * size_of(x.dtype());
  Device& source = x.device();
  const bool by_host = source.host_accessible() || d.host_accessible();
  (by_host ? counters().host_copies : counters().device_copies) += 1;
  at_line(loc, [&] {
    if (by_host) source.synchronize();
    if (source.host_accessible()) d.copy_from_host(out.data(), from, bytes);
    else if (d.host_accessible()) source.copy_to_host(out.data(), from, bytes);
    else d.copy_from_device(out.data(), source, from, bytes);
  });
  return out.value_ref();
}

}  // namespace

Span resolved_slice(int64_t n, int64_t start, int64_t stop, int64_t step) {
  const auto clamp = [&](int64_t i) {
    if (i < 0) i = i < -n ? -1 : i + n;
    return step > 0 ? std::clamp<int64_t>(i, 0, n) : std::clamp<int64_t>(i, -1, n - 1);
  };
  const int64_t first = clamp(start), last = clamp(stop);
  const int64_t count = step > 0 ? (last > first ? (last - first - 1) / step + 1 : 0)
                                 : (first > last ? (last - first + 1) / step + 1 : 0);
  return {count ? first : 0, count, count > 1 ? step : 1};
}

Tensor sliced(const char* name, const Tensor& x, int axis, const Span& s, Loc loc) {
  if (s.start == 0 && s.step == 1 && s.count == x.shape()[axis]) return x;
  Shape shape = x.shape();
  shape[axis] = s.count;
  Strides st = x.strides();
  const int64_t skip = s.count ? s.start * st[axis] : 0;
  st[axis] *= s.step;
  return with_opposite(
      name, x, strided_view(x, shape, st, skip),
      [from = x.shape(), axis, s, loc](const Tensor& g) { return slice_scatter(g, from, axis, s.start, s.step, loc); },
      loc);
}

Tensor slice_scatter(const Tensor& piece, const Shape& shape, int64_t axis, int64_t start, int64_t step, Loc loc) {
  check_defined("slice_scatter", piece, loc);
  check_sizes("slice_scatter", shape, loc);
  const int a = normalize_axis("slice_scatter", axis, shape.rank(), loc);
  Shape rest = piece.shape();
  if (rest.rank() == shape.rank()) rest[a] = shape[a];
  if (rest != shape)
    fail<ShapeError>(loc, "slice_scatter: a piece of {} does not fit into {} along axis {}", piece.shape(), shape, a);
  const int64_t n = piece.shape()[a], last = start + (n - 1) * step;
  if (step == 0 || (n > 0 && (std::min(start, last) < 0 || std::max(start, last) >= shape[a])))
    fail<IndexError>(loc, "slice_scatter: {} elements from {} by {} leave axis {} of size {}", n, start, step, a,
                     shape[a]);
  return dispatch(make_ref<SliceScatter>(shape, a, n ? start : 0, step), {piece}, loc);
}

Tensor Tensor::reshape(const Shape& asked, Loc loc) const {
  check_defined("reshape", *this, loc);
  const Shape to = resolve("reshape", shape(), asked, loc);
  if (to == shape()) return *this;
  Ref<Value> out;
  if (Strides st; same_but_ones(shape(), to)) {
    out = pend_reshape_ones(value_, to);
  } else if (view_strides(shape(), strides(), to, st)) {
    out = strided_view(*this, to, st);
  } else {
    const Tensor copy(pend_copy(value_, dtype()));
    out = strided_view(copy, to, contiguous_strides(to));
  }
  return with_opposite(
      "reshape", *this, std::move(out), [from = shape(), loc](const Tensor& g) { return g.reshape(from, loc); }, loc);
}

Tensor Tensor::flatten(int64_t from, int64_t to, Loc loc) const {
  const OpScope scope("flatten");
  check_defined("flatten", *this, loc);
  const int axes = std::max(1, rank());  // a tensor without axes becomes one of one axis
  const int a = normalize_axis("flatten", from, axes, loc), b = normalize_axis("flatten", to, axes, loc);
  if (rank() == 0) return reshape({1}, loc);
  if (a > b) fail<ShapeError>(loc, "flatten: expected from <= to, got axes {} and {} of {}", a, b, shape());
  Shape s;
  for (int i = 0; i < rank(); ++i) {
    if (i > a && i <= b) s[a] *= shape()[i];
    else s.push_back(shape()[i]);
  }
  return reshape(s, loc);
}

Tensor unflatten(const Tensor& x, int64_t axis, const Shape& sizes, Loc loc) {
  const OpScope scope("unflatten");
  check_defined("unflatten", x, loc);
  const int a = normalize_axis("unflatten", axis, x.rank(), loc);
  const int64_t n = x.shape()[a];
  if (sizes.empty()) fail<ShapeError>(loc, "unflatten: expected at least one size, got none");
  if (x.rank() - 1 + sizes.rank() > max_rank)
    fail<ShapeError>(loc, "unflatten: {} with axis {} as {} has a rank above the limit of {}", x.shape(), a, sizes,
                     max_rank);
  const Shape fit = resolve("unflatten", {n}, sizes, loc);
  Shape out = x.shape();
  out.erase(a);
  for (int i = 0; i < fit.rank(); ++i) out.insert(a + i, fit[i]);
  return x.reshape(out, loc);
}

Tensor Tensor::permute(const Dims& order, Loc loc) const {
  check_defined("permute", *this, loc);
  if (order.rank() != rank())
    fail<ShapeError>(loc, "permute: expected {} axes for shape {}, got {}", rank(), shape(), order);
  Shape s, back = order;
  Strides st;
  unsigned seen = 0;
  int last = -1;
  bool in_order = true;  // only axes of size 1 move
  for (int i = 0; i < rank(); ++i) {
    const int a = normalize_axis("permute", order[i], rank(), loc);
    if (seen >> a & 1) fail<IndexError>(loc, "permute: axis {} comes twice in {}", a, order);
    seen |= 1u << a;
    s.push_back(shape()[a]);
    st.push_back(strides()[a]);
    back[a] = i;
    if (shape()[a] == 1) continue;
    in_order &= a > last;
    last = a;
  }
  Ref<Value> out = in_order ? pend_reshape_ones(value_, s) : strided_view(*this, s, st);
  return with_opposite(
      "permute", *this, std::move(out), [back, loc](const Tensor& g) { return g.permute(back, loc); }, loc);
}

Tensor Tensor::transpose(int64_t a, int64_t b, Loc loc) const {
  const OpScope scope("transpose");
  check_defined("transpose", *this, loc);
  Dims order;
  for (int i = 0; i < rank(); ++i) order.push_back(i);
  const int from = normalize_axis("transpose", a, rank(), loc), to = normalize_axis("transpose", b, rank(), loc);
  std::swap(order[from], order[to]);
  return permute(order, loc);
}

Tensor movedim(const Tensor& x, const Dims& from, const Dims& to, Loc loc) {
  const OpScope scope("movedim");
  check_defined("movedim", x, loc);
  if (from.rank() != to.rank())
    fail<ShapeError>(loc, "movedim: expected as many places as axes, got axes {} and places {}", from, to);
  Dims order = Dims::filled(x.rank(), -1);
  unsigned moved = 0;
  for (int i = 0; i < from.rank(); ++i) {
    const int a = normalize_axis("movedim", from[i], x.rank(), loc),
              b = normalize_axis("movedim", to[i], x.rank(), loc);
    if (moved >> a & 1 || order[b] >= 0)
      fail<IndexError>(loc, "movedim: axis or place {} comes twice in {} and {}", moved >> a & 1 ? a : b, from, to);
    moved |= 1u << a;
    order[b] = a;
  }
  int rest = 0;
  for (int64_t& a : std::span(&order[0], static_cast<size_t>(order.rank()))) {
    if (a >= 0) continue;
    while (moved >> rest & 1) ++rest;
    a = rest++;
  }
  return x.permute(order, loc);
}
Tensor movedim(const Tensor& x, int64_t from, int64_t to, Loc loc) { return movedim(x, Dims{from}, Dims{to}, loc); }

Tensor Tensor::expand(const Shape& asked, Loc loc) const {
  check_defined("expand", *this, loc);
  Shape to = asked;
  const int shift = asked.rank() - rank();
  bool fits = shift >= 0;
  for (int i = 0; fits && i < asked.rank(); ++i) {
    const int64_t have = i < shift ? 1 : shape()[i - shift];
    if (asked[i] == -1 && i >= shift) to[i] = have;
    fits = to[i] >= 0 && (have == 1 || have == to[i]);
  }
  if (!fits) fail<ShapeError>(loc, "expand: {} does not broadcast to {}", shape(), asked);
  if (to == shape()) return *this;
  Ref<Value> out;
  if (flame::numel(to) == numel() && numel() != 0) out = pend_reshape_ones(value_, to);
  else out = strided_view(*this, to, broadcast_strides(shape(), strides(), to));
  return with_opposite(
      "expand", *this, std::move(out),
      [from = shape(), shift, to, loc](const Tensor& g) {
        Dims axes;
        for (int i = 0; i < to.rank(); ++i)
          if (i < shift || (from[i - shift] == 1 && to[i] != 1)) axes.push_back(i);
        return (axes.empty() ? g : flame::sum(g, axes, true, loc)).reshape(from, loc);
      },
      loc);
}

Tensor Tensor::squeeze(const Dims& axes, Loc loc) const {
  const OpScope scope("squeeze");
  check_defined("squeeze", *this, loc);
  unsigned gone = 0;
  for (int64_t axis : axes) {
    const int a = normalize_axis("squeeze", axis, rank(), loc);
    if (gone >> a & 1) fail<IndexError>(loc, "squeeze: axis {} comes twice in {}", a, axes);
    gone |= 1u << a;
  }
  Shape s;
  for (int i = 0; i < rank(); ++i)
    if (!(gone >> i & 1) || shape()[i] != 1) s.push_back(shape()[i]);
  return reshape(s, loc);
}
Tensor Tensor::squeeze(int64_t axis, Loc loc) const { return squeeze(Dims{axis}, loc); }
Tensor Tensor::squeeze(Loc loc) const {
  Dims all;
  for (int i = 0; i < rank(); ++i) all.push_back(i);
  return squeeze(all, loc);
}

Tensor Tensor::unsqueeze(int64_t axis, Loc loc) const {
  const OpScope scope("unsqueeze");
  check_defined("unsqueeze", *this, loc);
  check_room("unsqueeze", *this, loc);
  const int a = normalize_axis("unsqueeze", axis, rank() + 1, loc);
  Shape s = shape();
  s.insert(a, 1);
  return reshape(s, loc);
}

Tensor Tensor::narrow(int64_t axis, int64_t start, int64_t length, Loc loc) const {
  check_defined("narrow", *this, loc);
  const int a = normalize_axis("narrow", axis, rank(), loc);
  const int64_t n = shape()[a], first = start < 0 ? start + n : start;
  if (first < 0 || length < 0 || first > n - length)
    fail<IndexError>(loc, "narrow: {} elements from {} leave axis {} of size {}", length, start, a, n);
  return sliced("narrow", *this, a, {first, length, 1}, loc);
}

Tensor Tensor::slice(int64_t axis, int64_t start, int64_t stop, int64_t step, Loc loc) const {
  check_defined("slice", *this, loc);
  const int a = normalize_axis("slice", axis, rank(), loc);
  if (step == 0) fail<ValueError>(loc, "slice: expected a step other than 0");
  return sliced("slice", *this, a, resolved_slice(shape()[a], start, stop, step), loc);
}

Tensor flip(const Tensor& x, const Dims& axes, Loc loc) {
  check_defined("flip", x, loc);
  Tensor out = x;
  unsigned seen = 0;
  for (int64_t axis : axes) {
    const int a = normalize_axis("flip", axis, x.rank(), loc);
    if (seen >> a & 1) fail<ValueError>(loc, "flip: axis {} is named twice in {}", axis, axes);
    seen |= 1u << a;
    if (const int64_t n = x.shape()[a]; n > 1) out = sliced("flip", out, a, {n - 1, n, -1}, loc);
  }
  return out;
}

Tensor Tensor::select(int64_t axis, int64_t index, Loc loc) const {
  const OpScope scope("select");
  check_defined("select", *this, loc);
  const int a = normalize_axis("select", axis, rank(), loc);
  const int64_t n = shape()[a], i = index < 0 ? index + n : index;
  if (i < 0 || i >= n) fail<IndexError>(loc, "select: index {} is out of range for axis {} of size {}", index, a, n);
  return sliced("select", *this, a, {i, 1, 1}, loc).squeeze(a, loc);
}

Tensor Tensor::contiguous(Loc loc) const {
  check_defined("contiguous", *this, loc);
  if (is_contiguous(shape(), strides())) return *this;
  return with_opposite(
      "contiguous", *this, pend_copy(value_, dtype()), [](const Tensor& g) { return g; }, loc);
}

Tensor Tensor::to(DType t, Loc loc) const {
  check_defined("to", *this, loc);
  if (t == dtype()) return *this;
  const Strides st = dense_strides_like(shape(), strides());
  Ref<Value> out = pend_copy(value_, t, &st);
  if (!is_float(t)) return Tensor(std::move(out));
  return with_opposite(
      "to", *this, std::move(out), [from = dtype(), loc](const Tensor& g) { return g.to(from, loc); }, loc);
}

Tensor Tensor::to(Device& d, Loc loc) const {
  check_defined("to", *this, loc);
  Device& from = device();
  if (&d == &from) return *this;
  return with_opposite(
      "to", *this, transferred(*this, d, loc), [&from, loc](const Tensor& g) { return g.to(from, loc); }, loc);
}

Tensor Tensor::sum(const Axes& axes, bool keepdim, Loc loc) const { return flame::sum(*this, axes, keepdim, loc); }
Tensor Tensor::mean(const Axes& axes, bool keepdim, Loc loc) const { return flame::mean(*this, axes, keepdim, loc); }

}  // namespace flame
