// x.index and x.set: the entries are sorted into a region, which is a view, and index tensors into that view.
#include "flame/ops/index.h"

#include <limits>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/gather_internal.h"
#include "flame/ops/index_internal.h"
#include "flame/ops/mask_internal.h"
#include "flame/ops/region_internal.h"
#include "flame/ops/view_internal.h"

namespace flame {
namespace {

// An index tensor or mask, and the first axis of the view that it walks.
struct Entry {
  int axis;
  Tensor tensor;
  bool is_mask() const { return tensor.dtype() == DType::boolean; }
};

// What the entries come down to.
class Selection {
 public:
  Selection(const char* op, const Tensor& x, std::span<const Index> at, Loc loc) : op_(op), x_(x), loc_(loc) {
    check_defined(op, x, loc);
    int named = 0, dots = 0;
    for (const Index& i : at) {
      if (const Tensor* t = std::get_if<Tensor>(&i.kind())) check_inputs(op, {&x, t}, loc);
      named += axes_named_by(i);
      dots += std::holds_alternative<Ellipsis>(i.kind());
    }
    if (dots > 1) fail<IndexError>(loc, "{}: an ellipsis comes twice", op);
    if (named > x.rank())
      fail<IndexError>(loc, "{}: expected at most {} axes for shape {}, got {}", op, x.rank(), x.shape(), named);
    for (const Index& i : at) std::visit([&](const auto& k) { add(k, x.rank() - named); }, i.kind());
    while (region_.count.rank() < x.rank()) keep({}, true);
    if (shape_.size() > max_rank)
      fail<ShapeError>(loc, "{}: the new axes give a rank above the limit of {}", op, max_rank);
    view_shape_ = Shape(std::span<const int64_t>(shape_));
    for (const Entry& e : entries_) check(e);
  }

  const std::vector<Entry>& entries() const { return entries_; }
  const Shape& shape() const { return view_shape_; }
  Dims names() const { return Dims(std::span<const int64_t>(names_)); }
  Tensor view() const { return region_view(op_, x_, region_, loc_).reshape(view_shape_, loc_); }
  // x with the view's elements replaced; without a copy if they were computed from all of x.
  Tensor with(const Tensor& view, bool computed) const {
    const Tensor value = view.reshape(region_.count, loc_);
    return computed && region_.whole(x_.shape()) ? value : region_put(op_, x_, region_, value, loc_);
  }

 private:
  const char* op_;
  const Tensor& x_;
  Loc loc_;
  Region region_;
  std::vector<int64_t> shape_, names_;  // of the view: sizes, and the axis of x that errors name
  Shape view_shape_;
  std::vector<Entry> entries_;

  static int axes_named_by(const Index& i) {
    if (const Tensor* t = std::get_if<Tensor>(&i.kind())) return t->dtype() == DType::boolean ? t->rank() : 1;
    return std::holds_alternative<int64_t>(i.kind()) || std::holds_alternative<Slice>(i.kind());
  }
  int axis() const { return region_.count.rank(); }  // the next one of x
  void take(const Span& s) {
    region_.start.push_back(s.start);
    region_.count.push_back(s.count);
    region_.step.push_back(s.step);
  }
  void keep(const Slice& s, bool all = false) {
    const int64_t n = x_.shape()[axis()];
    constexpr int64_t far = std::numeric_limits<int64_t>::max();
    const bool forward = s.step > 0;
    const Span span =
        all ? Span{0, n, 1}
            : resolved_slice(n, s.start.value_or(forward ? 0 : far), s.stop.value_or(forward ? far : -far), s.step);
    names_.push_back(axis());
    shape_.push_back(span.count);
    take(span);
  }
  void new_axis_of_one() {
    names_.push_back(axis());
    shape_.push_back(1);
  }

  void add(int64_t i, int) {
    const int64_t n = x_.shape()[axis()], place = i < 0 ? i + n : i;
    if (place < 0 || place >= n)
      fail<IndexError>(loc_, "{}: index {} is out of range for axis {} of size {}", op_, i, axis(), n);
    take({place, 1, 1});
  }
  void add(bool b, int) {
    entries_.push_back({static_cast<int>(shape_.size()), arange(0, b ? 1 : 0, 1, DType::i64, x_.device(), loc_)});
    new_axis_of_one();
  }
  void add(const Slice& s, int) {
    if (s.step == 0) fail<ValueError>(loc_, "{}: expected a step other than 0", op_);
    keep(s);
  }
  void add(Ellipsis, int left) {
    for (int i = 0; i < left; ++i) keep({}, true);
  }
  void add(NewAxis, int) { new_axis_of_one(); }
  void add(const Tensor& t, int) {
    if (t.dtype() != DType::boolean) {
      entries_.push_back({static_cast<int>(shape_.size()), checked_index(op_, t, loc_)});
      return keep({}, true);
    }
    entries_.push_back({static_cast<int>(shape_.size()), t.rank() == 0 ? t.reshape({1}, loc_) : t});
    if (t.rank() == 0) return new_axis_of_one();
    for (int i = 0; i < t.rank(); ++i) keep({}, true);
  }
  void check(const Entry& e) const {
    if (!e.is_mask()) return;
    for (int i = 0; i < e.tensor.rank(); ++i)
      if (e.tensor.shape()[i] != view_shape_[e.axis + i])
        fail<ShapeError>(loc_, "{}: a mask of {} does not fit axis {} of size {}", op_, e.tensor.shape(),
                         names_[static_cast<size_t>(e.axis + i)], view_shape_[e.axis + i]);
  }
};

// Index tensors of one shape, and how the view's axes move for them and back.
struct Advanced {
  IndexList list;
  Dims first;    // the view's axes, those with an index tensor first
  Dims back;     // the axes of [at.., rest..] in the order of the result
  Shape result;  // of reading

  Advanced(const char* op, const Selection& s, Loc loc) {
    list.op = op;
    list.distinct = s.entries().size() == 1 && s.entries()[0].is_mask();
    std::vector<int> axes;
    std::vector<bool> placed;  // whether an axis decides where the index tensors' axes go: those of rank 0 do not
    for (const Entry& e : s.entries()) {
      const Tensor places = e.is_mask() ? places_of(op, e.tensor, loc) : Tensor();
      for (int i = 0; i < (e.is_mask() ? e.tensor.rank() : 1); ++i) {
        list.index.push_back(e.is_mask() ? places.select(1, i, loc) : e.tensor);
        list.axes.push_back(s.names()[e.axis + i]);
        axes.push_back(e.axis + i);
        placed.push_back(list.index.back().rank() > 0);
      }
    }
    broadcast(loc);
    arrange(s.shape(), axes, placed, loc);
  }

 private:
  void broadcast(Loc loc) {
    Shape at;
    for (const Tensor& t : list.index)
      if (Shape joined; broadcast_shapes(at, t.shape(), joined)) at = joined;
      else fail<ShapeError>(loc, "{}: index tensors of {} and {} do not broadcast", list.op, at, t.shape());
    for (Tensor& t : list.index) t = t.expand(at, loc);
  }
  void arrange(const Shape& view, const std::vector<int>& axes, const std::vector<bool>& placed, Loc loc) {
    std::vector<int> role(static_cast<size_t>(view.rank()), 0);  // 1: has an index tensor, 2: one that is placed
    for (size_t j = 0; j < axes.size(); ++j) role[static_cast<size_t>(axes[j])] = placed[j] ? 2 : 1;
    int before = 0, rest = 0, started = 0;  // axes without an index tensor, before the first placed one
    bool split = false, gap = false;
    for (int r : role) {
      if (r == 2) {
        split |= gap;
        if (!started++) before = rest;
      } else if (r == 0) {
        gap |= started > 0;
        ++rest;
      }
    }
    if (split) before = 0;
    const Shape at = list.at();
    if (at.rank() + rest > max_rank)
      fail<ShapeError>(loc, "{}: index tensors of {} into {} give a rank above the limit of {}", list.op, at, view,
                       max_rank);
    for (int a : axes) first.push_back(a);
    for (int i = 0, seen = 0; i <= view.rank(); ++i) {
      if (seen == before && back.rank() == before)
        for (int k = 0; k < at.rank(); ++k) {
          back.push_back(k);
          result.push_back(at[k]);
        }
      if (i == view.rank() || role[static_cast<size_t>(i)]) continue;
      first.push_back(i);
      back.push_back(at.rank() + seen++);
      result.push_back(view[i]);
    }
  }
};

Dims inverse(const Dims& order) {
  Dims out = order;
  for (int i = 0; i < order.rank(); ++i) out[static_cast<int>(order[i])] = i;
  return out;
}

// `value` broadcast to `shape`; leading axes of size 1 beyond its rank are dropped.
Tensor fitted(const Tensor& value, const Shape& shape, Loc loc) {
  Shape s = value.shape(), joined;
  while (s.rank() > shape.rank() && s[0] == 1) s.erase(0);
  if (!broadcast_shapes(s, shape, joined) || joined != shape)
    fail<ShapeError>(loc, "set: a value of {} does not broadcast to {}", value.shape(), shape);
  return value.reshape(s, loc).expand(shape, loc);
}

// Where the value does not depend on how many elements a mask has, no host needs to count them. Undefined: it does.
Tensor set_by_mask(const Selection& s, const Tensor& value, bool accumulate, Loc loc) {
  if (s.entries().size() != 1 || !s.entries()[0].is_mask()) return {};
  const Entry& e = s.entries()[0];
  const int k = e.tensor.rank(), after = s.shape().rank() - k - e.axis;
  Shape v = value.shape(), mask = e.tensor.shape(), joined;
  while (v.rank() > s.shape().rank() - k + 1 && v[0] == 1) v.erase(0);
  if (const int counted = v.rank() - 1 - after; counted >= 0) {
    if (v[counted] != 1) return {};
    for (int i = 1; i < k; ++i) v.insert(counted, 1);
  }
  if (!broadcast_shapes(v, s.shape(), joined) || joined != s.shape()) return {};
  for (int i = 0; i < after; ++i) mask.push_back(1);
  const Tensor view = s.view(), from = value.reshape(v, loc);
  return where(e.tensor.reshape(mask, loc), accumulate ? add(view, from, loc) : from, view, loc);
}

}  // namespace

Tensor Tensor::index(std::span<const Index> at, Loc loc) const {
  const OpScope scope("index");
  const Selection s("index", *this, at, loc);
  if (s.entries().empty()) return s.view();
  if (const Entry& e = s.entries()[0]; e.is_mask() && e.tensor.rank() == s.shape().rank())
    return select_true("index", s.view(), e.tensor, loc);
  const Advanced a("index", s, loc);
  return index_get(a.list, s.view().permute(a.first, loc), loc).permute(a.back, loc);
}
Tensor Tensor::index(std::initializer_list<Index> at, Loc loc) const {
  return index(std::span<const Index>(at.begin(), at.size()), loc);
}

Tensor Tensor::set(std::span<const Index> at, const Arg& value, const SetOptions& o, Loc loc) const {
  if (value.tensor())
    if (const AutocastCall cast{"set", {this, value.tensor()}})
      return cast(*this, loc).set(at, cast(*value.tensor(), loc), o, loc);
  const OpScope scope("set");
  check_defined("set", *this, loc);
  if (value.tensor()) check_inputs("set", {this, value.tensor()}, loc);
  if (o.accumulate && dtype() == DType::boolean) fail<DTypeError>(loc, "set: expected numbers to accumulate, got bool");
  const Selection s("set", *this, at, loc);
  const Tensor v = value.tensor() ? value.tensor()->to(dtype(), loc)
                                  : full({}, as_dtype(value.scalar(), dtype()), dtype(), device(), loc);
  if (s.entries().empty()) {
    const Tensor wide = fitted(v, s.shape(), loc);
    return s.with(o.accumulate ? add(s.view(), wide, loc) : wide, o.accumulate);
  }
  if (const Tensor masked = set_by_mask(s, v, o.accumulate, loc); masked.defined()) return s.with(masked, true);
  const Advanced a("set", s, loc);
  const Tensor wide = fitted(v, a.result, loc).permute(inverse(a.back), loc);
  const Tensor view = s.view().permute(a.first, loc);
  return s.with(
      index_put(a.list, o.accumulate ? PutMode::add : PutMode::assign, view, wide, loc).permute(inverse(a.first), loc),
      true);
}
Tensor Tensor::set(std::initializer_list<Index> at, const Arg& value, const SetOptions& o, Loc loc) const {
  return set(std::span<const Index>(at.begin(), at.size()), value, o, loc);
}

}  // namespace flame
