// diagonal is a view that walks two axes at once; tril and triu compare row and column numbers, which an island makes.
#include "flame/ops/diagonal.h"

#include <algorithm>

#include "flame/core/format.h"
#include "flame/fuse/island.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/samples_internal.h"
#include "flame/ops/strided_internal.h"
#include "flame/ops/view_internal.h"

namespace flame {
namespace {

// Where a diagonal lies in a tensor of a shape.
struct Line {
  int rows, columns;           // axes
  int64_t row, column, count;  // its first element, and how many
  Shape shape;                 // of the piece: the other axes, then the count
  Line(const char* op, const Shape& from, const DiagonalOptions& o, Loc loc)
      : rows(normalize_axis(op, o.axis1, from.rank(), loc)), columns(normalize_axis(op, o.axis2, from.rank(), loc)) {
    if (rows == columns) fail<IndexError>(loc, "{}: expected two axes, got {} and {}", op, o.axis1, o.axis2);
    const int64_t offset = std::clamp(o.offset, -from[rows], from[columns]);
    row = offset < 0 ? -offset : 0;
    column = offset > 0 ? offset : 0;
    count = std::min(from[rows] - row, from[columns] - column);
    shape = walked(from, count);
  }
  // Sizes or strides: without the two axes, and `last` at the end.
  Dims walked(const Dims& from, int64_t last) const {
    Dims out;
    for (int i = 0; i < from.rank(); ++i)
      if (i != rows && i != columns) out.push_back(from[i]);
    out.push_back(last);
    return out;
  }
  Strides strides(const Strides& st) const { return walked(st, st[rows] + st[columns]); }
  int64_t skip(const Strides& st) const { return count ? row * st[rows] + column * st[columns] : 0; }
};

class DiagonalScatter final : public Op {
 public:
  DiagonalScatter(const Shape& shape, const DiagonalOptions& o) : shape_(shape), options_(o) {}
  const char* name() const override { return "diagonal_scatter"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), shape_)};
  }
  void key(Key& k) const override { k << shape_ << options_.offset << options_.axis1 << options_.axis2; }
  Ref<Plan> prepare_cpu(std::span<const Meta> in, std::span<const Meta> out) const override {
    const Line line(name(), shape_, options_, Loc::current());
    const size_t element = size_of(in[0].dtype);
    return make_ref<Plan>(
        name(), [bytes = numel(shape_) * static_cast<int64_t>(element),
                 skip = line.skip(out[0].strides) * static_cast<int64_t>(element),
                 copy = StridedCopy(line.shape, line.strides(out[0].strides), in[0].strides, element)](const Run& r) {
          char* out = static_cast<char*>(r.buffers[1]);
          parallel_for(bytes, 8 * elements_per_piece, [&](int64_t begin, int64_t end) {
            std::memset(out + begin, 0, static_cast<size_t>(end - begin));
          });
          copy(out + skip, r.buffers[0]);
        });
  }
  bool saves_input(int) const override { return false; }
  void vjp(Vjp& v) const override { v.give(0, diagonal(v.grad(0), options_, v.call_site())); }

 private:
  Shape shape_;
  DiagonalOptions options_;
};

// x where keep(column - row, diagonal), else 0.
Tensor triangle(const char* op, Tensor (*keep)(const Arg&, const Arg&, Loc), const Tensor& x, int64_t diagonal,
                Loc loc) {
  check_defined(op, x, loc);
  if (x.rank() < 2) fail<ShapeError>(loc, "{}: expected a rank of 2 or more, got shape {}", op, x.shape());
  const int r = x.rank() - 2, c = x.rank() - 1;
  const int64_t most = std::max(x.shape()[r], x.shape()[c]);  // beyond it nothing changes
  const DType t = most < int64_t{1} << 29 ? DType::i32 : DType::i64;
  // Of x's own shape, so that they are in x's launch.
  const Tensor row(pend_iota(x.shape(), t, r, std::clamp(diagonal, -most, most), 1, x.device()));
  const Tensor column(pend_iota(x.shape(), t, c, 0, 1, x.device()));
  return where(keep(column, row, loc), x, x.dtype() == DType::boolean ? Scalar(false) : Scalar(0), loc);
}

}  // namespace

Tensor diagonal(const Tensor& x, const DiagonalOptions& o, Loc loc) {
  check_defined("diagonal", x, loc);
  const Line line("diagonal", x.shape(), o, loc);
  return with_opposite(
      "diagonal", x, strided_view(x, line.shape, line.strides(x.strides()), line.skip(x.strides())),
      [from = x.shape(), o, loc](const Tensor& g) { return diagonal_scatter(g, from, o, loc); }, loc);
}

Tensor diagonal_scatter(const Tensor& piece, const Shape& shape, const DiagonalOptions& o, Loc loc) {
  check_defined("diagonal_scatter", piece, loc);
  check_sizes("diagonal_scatter", shape, loc);
  const Line line("diagonal_scatter", shape, o, loc);
  if (piece.shape() != line.shape)
    fail<ShapeError>(loc, "diagonal_scatter: expected a piece of {} for {}, got {}", line.shape, shape, piece.shape());
  return dispatch(make_ref<DiagonalScatter>(shape, o), {piece}, loc);
}

Tensor tril(const Tensor& x, int64_t diagonal, Loc loc) { return triangle("tril", le, x, diagonal, loc); }
Tensor triu(const Tensor& x, int64_t diagonal, Loc loc) { return triangle("triu", ge, x, diagonal, loc); }

namespace {
using Inputs = std::vector<Tensor>;

RegisterOp with_shapes(const char* name, const char* signature, const char* formula,
                       std::vector<std::pair<Shape, Tensor (*)(const Tensor&)>> calls) {
  return RegisterOp({.name = name, .signature = signature, .formula = formula, .samples = [calls](DType t) {
                       std::vector<SampleCase> out;
                       for (const auto& [shape, fn] : calls) {
                         const auto run = [fn = fn](const Inputs& in) { return Inputs{fn(in[0])}; };
                         const std::string label = to_string(shape) + ", call " + std::to_string(out.size());
                         out.push_back({{samples::uniform(shape, t)}, run, label});
                         out.push_back({{samples::strided(shape, t)}, run, label + ", strided"});
                       }
                       return out;
                     }});
}
const RegisterOp registered[] = {
    with_shapes("diagonal", "diagonal(x, {offset, axis1, axis2})", "out[..., k] = x[..., k, k + offset]",
                {{{3, 4}, [](const Tensor& x) { return diagonal(x); }},
                 {{2, 3, 4}, [](const Tensor& x) { return diagonal(x, {.offset = 1, .axis1 = 2, .axis2 = 0}); }},
                 {{2, 3, 4}, [](const Tensor& x) { return diagonal(x, {.offset = -2, .axis1 = -2, .axis2 = -1}); }},
                 {{3, 2}, [](const Tensor& x) { return diagonal(x, {.offset = 5}); }},
                 {{0, 3}, [](const Tensor& x) { return diagonal(x); }}}),
    with_shapes("diagonal_scatter", "diagonal_scatter(piece, shape, {offset, axis1, axis2})",
                "zeros, and the piece on a diagonal",
                {{{3},
                  [](const Tensor& x) {
                    return diagonal_scatter(x, {3, 5}, {.offset = 2});
                  }},
                 {{4, 2},
                  [](const Tensor& x) {
                    return diagonal_scatter(x, {3, 4, 3}, {-1, 0, 2});
                  }},
                 {{0},
                  [](const Tensor& x) {
                    return diagonal_scatter(x, {2, 2}, {.offset = -2});
                  }}}),
    with_shapes("tril", "tril(x, diagonal)", "x where column - row <= diagonal, else 0",
                {{{3, 4}, [](const Tensor& x) { return tril(x); }},
                 {{2, 4, 3}, [](const Tensor& x) { return tril(x, -1); }},
                 {{3, 3}, [](const Tensor& x) { return tril(x, 2); }},
                 {{2, 0, 3}, [](const Tensor& x) { return tril(x); }}}),
    with_shapes("triu", "triu(x, diagonal)", "x where column - row >= diagonal, else 0",
                {{{3, 4}, [](const Tensor& x) { return triu(x); }},
                 {{2, 4, 3}, [](const Tensor& x) { return triu(x, 1); }},
                 {{3, 3}, [](const Tensor& x) { return triu(x, -2); }},
                 {{3, 0}, [](const Tensor& x) { return triu(x); }}}),
};
}  // namespace

}  // namespace flame
