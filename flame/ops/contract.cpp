// The contraction of a pair of tensors with labelled axes: one matrix product over axes brought together by views; an
// axis is copied only where no strides fit.
#include "flame/core/format.h"
#include "flame/ops/einsum_internal.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"

namespace flame {
namespace {
int axis_of(const Labelled& x, int label) {
  return static_cast<int>(std::find(x.labels.begin(), x.labels.end(), label) - x.labels.begin());
}
}  // namespace

Labels joined(std::initializer_list<Labels> parts) {
  Labels out;
  for (const Labels& p : parts) out.insert(out.end(), p.begin(), p.end());
  return out;
}
int64_t size_of(const Labelled& x, int label) { return x.t.shape()[axis_of(x, label)]; }
void check_rank(const char* op, size_t rank, Loc loc) {
  if (rank > static_cast<size_t>(max_rank))
    fail<ShapeError>(loc, "{}: an intermediate result has {} axes, more than {}", op, rank, max_rank);
}

namespace {

// Whether axes walk as one: each steps over exactly what the next ones hold.
bool walks_as_one(const Labelled& x, const Labels& axes) {
  int64_t next = -1;
  for (size_t i = axes.size(); i-- > 0;) {
    const int a = axis_of(x, axes[i]);
    const int64_t n = x.t.shape()[a], step = x.t.strides()[a];
    if (n == 1) continue;
    if (next >= 0 && step != next) return false;
    next = step * n;
  }
  return true;
}

// Drops axes of size 1 that the other operand has at full size: the product broadcasts along them by itself.
void drop_broadcast(Labelled& x, const Labelled& other, Loc loc) {
  Labels kept;
  Tensor t = x.t;
  for (int label : x.labels) {
    if (has(other.labels, label) && size_of(x, label) == 1 && size_of(other, label) != 1)
      t = t.squeeze(static_cast<int64_t>(kept.size()), loc);
    else kept.push_back(label);
  }
  x = {t, kept};
}

// The roles that the labels of a pair play.
struct Roles {
  Labels batch, rows, columns, inner;  // of both and kept; of a alone; of b alone; of both and summed
};
Roles roles_of(const Labelled& a, const Labelled& b, const Labels& keep) {
  Roles r;
  for (int l : a.labels) (!has(b.labels, l) ? r.rows : has(keep, l) ? r.batch : r.inner).push_back(l);
  for (int l : b.labels)
    if (!has(a.labels, l)) r.columns.push_back(l);
  // Summed axes in b's order if that alone saves a copy.
  Labels other;
  for (int l : b.labels)
    if (has(r.inner, l)) other.push_back(l);
  const auto copied = [&](const Labels& order) {
    return (walks_as_one(a, order) ? 0 : a.t.numel()) + (walks_as_one(b, order) ? 0 : b.t.numel());
  };
  if (copied(other) < copied(r.inner)) r.inner = other;
  // The result in the order asked for, where that costs nothing.
  const auto by_keep = [&](Labels& l, const Labelled* x) {
    Labels sorted;
    for (int k : keep)
      if (has(l, k)) sorted.push_back(k);
    if (sorted.size() == l.size() && (!x || walks_as_one(*x, sorted) || !walks_as_one(*x, l))) l = sorted;
  };
  by_keep(r.batch, nullptr);
  by_keep(r.rows, &a);
  by_keep(r.columns, &b);
  return r;
}

int64_t product(const Labelled& x, const Labels& l) {
  int64_t n = 1;
  for (int label : l) n *= size_of(x, label);
  return n;
}
Shape sizes(const Labelled& x, const Labels& l) {
  Shape s;
  for (int label : l) s.push_back(size_of(x, label));
  return s;
}
// [batch..., first, second], each of the two a product of axes.
Tensor matrices(const Labelled& x, const Labels& batch, const Labels& first, const Labels& second, Loc loc) {
  Shape s = sizes(x, batch);
  s.push_back(product(x, first));
  s.push_back(product(x, second));
  return arranged(x, joined({batch, first, second}), loc).reshape(s, loc);
}

}  // namespace

DType product_dtype(const char* op, std::span<const Tensor> factors, Loc loc) {
  DType t = DType::boolean;
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!factors[i].defined()) fail<ValueError>(loc, "{}: input {} is undefined", op, i);
    if (&factors[i].device() != &factors[0].device())
      fail<DeviceError>(loc, "{}: inputs are on {} and {}; move one with to()", op, factors[0].device().name(),
                        factors[i].device().name());
    t = promote(t, factors[i].dtype());
  }
  if (t == DType::boolean) fail<DTypeError>(loc, "{}: expected numbers, got bool tensors alone", op);
  return t;
}

Tensor arranged(const Labelled& x, const Labels& labels, Loc loc) {
  if (labels == x.labels) return x.t;
  Dims order;
  for (int l : labels) order.push_back(axis_of(x, l));
  return x.t.permute(order, loc);
}

Labelled summed(const Labelled& x, const Labels& keep, Loc loc) {
  Dims axes;
  Labels kept;
  for (size_t i = 0; i < x.labels.size(); ++i) {
    if (has(keep, x.labels[i])) kept.push_back(x.labels[i]);
    else axes.push_back(static_cast<int64_t>(i));
  }
  if (axes.empty()) return x;
  return {sum(x.t, axes, false, loc).to(x.t.dtype(), loc), kept};
}

Labelled contract(const char* op, Labelled a, Labelled b, const Labels& keep, Loc loc) {
  drop_broadcast(a, b, loc);
  drop_broadcast(b, a, loc);
  a = summed(a, joined({keep, b.labels}), loc);
  b = summed(b, joined({keep, a.labels}), loc);
  Roles r = roles_of(a, b, keep);
  // A result that should begin with b's axes is made the other way round.
  for (int l : keep) {
    if (has(r.rows, l)) break;
    if (!has(r.columns, l)) continue;
    std::swap(a, b);
    r = roles_of(a, b, keep);
    break;
  }
  const Labels out = joined({r.batch, r.rows, r.columns});
  check_rank(op, out.size(), loc);
  const bool vectors = r.rows.empty() && r.columns.empty();
  if (r.inner.empty()) {  // nothing to sum: numbers times numbers, which fuse with what surrounds them
    Shape left = sizes(a, joined({r.batch, r.rows})), right = sizes(b, r.batch);
    for (size_t i = 0; i < r.columns.size(); ++i) left.push_back(1);
    for (size_t i = 0; i < r.rows.size(); ++i) right.push_back(1);
    for (int l : r.columns) right.push_back(size_of(b, l));
    return {mul(arranged(a, joined({r.batch, r.rows}), loc).reshape(left, loc),
                arranged(b, joined({r.batch, r.columns}), loc).reshape(right, loc), loc),
            out};
  }
  if (vectors && flame::size_of(a.t.dtype()) > 2) {  // dot products, of what is read once
    return summed({mul(a.t, arranged(b, a.labels, loc), loc), a.labels}, r.batch, loc);
  }
  check_rank(op, r.batch.size() + 2, loc);
  const Tensor y =
      matmul(matrices(a, r.batch, r.rows, r.inner, loc), matrices(b, r.batch, r.inner, r.columns, loc), loc);
  Shape s = sizes(a, joined({r.batch, r.rows}));
  for (int l : r.columns) s.push_back(size_of(b, l));
  return {y.reshape(s, loc), out};
}

}  // namespace flame
