// diagonal is a view with a stride of two axes; diag_embed its opposite, zeros and a strided copy. Each is the other's
// gradient.
#include "flame/ops/diagonal.h"

#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"
#include "flame/ops/strided_internal.h"

namespace flame {
namespace {

// Two axes of a tensor, and a diagonal in them.
struct Place {
  int axis1, axis2;
  int64_t offset;
  int64_t length(int64_t rows, int64_t columns) const {
    return std::max<int64_t>(0, offset >= 0 ? std::min(rows, columns - offset) : std::min(rows + offset, columns));
  }
  // Of a tensor's shape and strides; returns how many elements come before the diagonal's first.
  int64_t view(Shape& shape, Strides& st) const {
    const int64_t n = length(shape[axis1], shape[axis2]), step = st[axis1] + st[axis2];
    const int64_t skip = n == 0 ? 0 : offset >= 0 ? offset * st[axis2] : -offset * st[axis1];
    for (int axis : {std::max(axis1, axis2), std::min(axis1, axis2)}) {
      shape.erase(axis);
      st.erase(axis);
    }
    shape.push_back(n);
    st.push_back(step);
    return skip;
  }
};
Place checked(const char* op, int64_t offset, int64_t axis1, int64_t axis2, int rank, const Shape& shape, Loc loc) {
  if (rank < 2) fail<ShapeError>(loc, "{}: expected rank 2 or more, got shape {}", op, shape);
  const Place p{normalize_axis(op, axis1, rank, loc), normalize_axis(op, axis2, rank, loc), offset};
  if (p.axis1 == p.axis2) fail<ValueError>(loc, "{}: expected two different axes, got {} and {}", op, axis1, axis2);
  return p;
}

Tensor viewed(const Tensor& x, const Place& p, Loc loc);

// (x [..., n]) -> zeros of `shape` with x on a diagonal.
class DiagEmbed final : public Op {
 public:
  DiagEmbed(const Shape& shape, const Place& place) : shape_(shape), place_(place) {}
  const char* name() const override { return "diag_embed"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), shape_)};
  }
  void key(Key& k) const override { k << shape_ << place_.axis1 << place_.axis2 << place_.offset; }
  bool saves_input(int) const override { return false; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const size_t element = size_of(in[0].dtype);
    Shape shape = shape_;
    Strides to = out[0].strides;
    const int64_t skip = place_.view(shape, to) * static_cast<int64_t>(element);
    return make_ref<Plan>(name(), [bytes = numel(shape_) * static_cast<int64_t>(element), skip,
                                   copy = StridedCopy(shape, to, in[0].strides, element)](const Run& r) {
      char* out = static_cast<char*>(r.buffers[1]);
      parallel_for(bytes, 8 * elements_per_piece,
                   [&](int64_t begin, int64_t end) { std::memset(out + begin, 0, static_cast<size_t>(end - begin)); });
      copy(out + skip, r.buffers[0]);
    });
  }
  void vjp(Vjp& v) const override { v.give(0, viewed(v.grad(0), place_, v.call_site())); }

 private:
  Shape shape_;
  Place place_;
};

Tensor viewed(const Tensor& x, const Place& p, Loc loc) {
  materialize(x.value());
  Shape shape = x.shape();
  Strides st = x.strides();
  const int64_t skip = p.view(shape, st);
  const Tensor out(Value::view(x.value(), shape, st, x.value().offset + skip));
  const auto rule = [from = x.shape(), p, loc](const CustomContext& c) -> std::vector<Tensor> {
    return {dispatch(make_ref<DiagEmbed>(from, p), {c.grads[0]}, loc)};
  };
  return with_rule("diagonal", {&x, 1}, {out}, {}, rule, loc)[0];
}

}  // namespace

Tensor diagonal(const Tensor& x, const DiagonalOptions& o, Loc loc) {
  if (!x.defined()) fail<ValueError>(loc, "diagonal: the input is undefined");
  return viewed(x, checked("diagonal", o.offset, o.axis1, o.axis2, x.rank(), x.shape(), loc), loc);
}

Tensor diag_embed(const Tensor& x, const DiagEmbedOptions& o, Loc loc) {
  if (!x.defined()) fail<ValueError>(loc, "diag_embed: the input is undefined");
  if (x.rank() == 0) fail<ShapeError>(loc, "diag_embed: expected rank 1 or more, got shape {}", x.shape());
  if (x.rank() == max_rank)
    fail<ShapeError>(loc, "diag_embed: expected a rank below {}, got shape {}", max_rank, x.shape());
  const Place p = checked("diag_embed", o.offset, o.axis1, o.axis2, x.rank() + 1, x.shape(), loc);
  const int64_t n = x.shape().back() + std::abs(o.offset);
  Shape shape = x.shape();
  shape.erase(x.rank() - 1);
  for (int axis : {std::min(p.axis1, p.axis2), std::max(p.axis1, p.axis2)}) shape.insert(axis, n);
  return dispatch(make_ref<DiagEmbed>(shape, p), {x}, loc);
}

Tensor diag(const Tensor& x, int64_t offset, Loc loc) {
  if (!x.defined()) fail<ValueError>(loc, "diag: the input is undefined");
  if (x.rank() == 1) return diag_embed(x, {.offset = offset}, loc);
  if (x.rank() != 2) fail<ShapeError>(loc, "diag: expected rank 1 or 2, got shape {}", x.shape());
  return diagonal(x, {.offset = offset}, loc);
}

Tensor trace(const Tensor& x, Loc loc) {
  if (!x.defined()) fail<ValueError>(loc, "trace: the input is undefined");
  if (x.rank() != 2) fail<ShapeError>(loc, "trace: expected a matrix, got shape {}", x.shape());
  return sum(diagonal(x, {}, loc), {}, false, loc);
}

namespace {
using Inputs = std::vector<Tensor>;

const RegisterOp registered[] = {
    RegisterOp({.name = "diagonal",
                .signature = "diagonal(x, {.offset, .axis1, .axis2})",
                .formula = "out[..., i] = x[..., i, ..., i + offset, ...]",
                .samples =
                    [](DType t) {
                      const auto by = [](const DiagonalOptions& o) {
                        return [o](const Inputs& in) { return Inputs{diagonal(in[0], o)}; };
                      };
                      using namespace samples;
                      return std::vector<SampleCase>{
                          {{uniform({4, 4}, t)}, by({}), "square"},
                          {{uniform({3, 5}, t)}, by({.offset = 3}), "above"},
                          {{transposed({5, 3}, t)}, by({.offset = -1}), "below, transposed"},
                          {{strided({2, 3, 4}, t)}, by({.axis1 = -1, .axis2 = 0}), "other axes"},
                          {{uniform({2, 3}, t)}, by({.offset = 7}), "outside"},
                          {{uniform({0, 3, 3}, t)}, by({.axis1 = 1, .axis2 = 2}), "empty"},
                      };
                    }}),
    RegisterOp({.name = "diag_embed",
                .signature = "diag_embed(x, {.offset, .axis1, .axis2})",
                .formula = "zeros with x on a diagonal of two new axes",
                .samples =
                    [](DType t) {
                      const auto by = [](const DiagEmbedOptions& o) {
                        return [o](const Inputs& in) { return Inputs{diag_embed(in[0], o)}; };
                      };
                      using namespace samples;
                      return std::vector<SampleCase>{
                          {{uniform({4}, t)}, by({}), "vector"},
                          {{uniform({2, 3}, t)}, by({.offset = 1}), "above"},
                          {{transposed({2, 3}, t)}, by({.offset = -2, .axis1 = 0, .axis2 = 2}), "below, other axes"},
                          {{strided({2, 3}, t)}, by({.axis1 = 1, .axis2 = 0}), "axes swapped"},
                          {{uniform({0}, t)}, by({}), "empty"},
                      };
                    }}),
    RegisterOp({.name = "diag",
                .signature = "diag(x, offset)",
                .formula = "a matrix's diagonal, or a diagonal matrix",
                .samples =
                    [](DType t) {
                      const auto by = [](int64_t offset) {
                        return [offset](const Inputs& in) { return Inputs{diag(in[0], offset)}; };
                      };
                      using namespace samples;
                      return std::vector<SampleCase>{
                          {{uniform({3}, t)}, by(0), "vector"},
                          {{uniform({3}, t)}, by(-1), "vector below"},
                          {{transposed({3, 4}, t)}, by(1), "matrix"},
                          {{uniform({0, 3}, t)}, by(0), "no rows"},
                      };
                    }}),
    RegisterOp({.name = "trace",
                .signature = "trace(x)",
                .formula = "sum of x[i, i]",
                .samples =
                    [](DType t) {
                      const auto fn = [](const Inputs& in) { return Inputs{trace(in[0])}; };
                      using namespace samples;
                      return std::vector<SampleCase>{
                          {{uniform({4, 4}, t)}, fn, "square"},
                          {{transposed({3, 5}, t)}, fn, "transposed"},
                          {{strided({5, 2}, t)}, fn, "strided"},
                          {{uniform({0, 3}, t)}, fn, "empty"},
                      };
                    }}),
};
}  // namespace

}  // namespace flame
