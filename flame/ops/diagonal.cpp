// diagonal is a view that walks two axes at once; tril and triu compare row and column numbers, which an island makes.
#include "flame/ops/diagonal.h"

#include <algorithm>

#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/device/cpu/strided_copy.h"
#include "flame/fuse/island.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"
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
    if (rows == columns) fail<ValueError>(loc, "{}: expected two different axes, got {} and {}", op, o.axis1, o.axis2);
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
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const Line line(name(), shape_, options_, Loc::current());
    const size_t element = size_of(in[0].dtype);
    return make_ref<Plan>(
        name(), [&d, bytes = static_cast<size_t>(numel(shape_)) * element,
                 skip = line.skip(out[0].strides) * static_cast<int64_t>(element),
                 copy = DeviceCopy(d, line.shape, line.strides(out[0].strides), in[0].strides, element)](const Run& r) {
          d.fill_bytes(r.buffers[1], 0, bytes);
          copy(static_cast<char*>(r.buffers[1]) + skip, r.buffers[0]);
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
  const OpScope scope(op);
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
  if (x.rank() < 2) fail<ShapeError>(loc, "diagonal: expected rank 2 or more, got shape {}", x.shape());
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

Tensor diag_embed(const Tensor& x, const DiagEmbedOptions& o, Loc loc) {
  const OpScope scope("diag_embed");
  check_defined("diag_embed", x, loc);
  if (x.rank() == 0) fail<ShapeError>(loc, "diag_embed: expected rank 1 or more, got shape {}", x.shape());
  if (x.rank() == max_rank)
    fail<ShapeError>(loc, "diag_embed: expected a rank below {}, got shape {}", max_rank, x.shape());
  const int rank = x.rank() + 1, rows = normalize_axis("diag_embed", o.axis1, rank, loc),
            columns = normalize_axis("diag_embed", o.axis2, rank, loc);
  if (rows == columns)
    fail<ValueError>(loc, "diag_embed: expected two different axes, got {} and {}", o.axis1, o.axis2);
  const int64_t n = x.shape().back() + std::abs(o.offset);
  Shape shape = x.shape();
  shape.erase(x.rank() - 1);
  for (int axis : {std::min(rows, columns), std::max(rows, columns)}) shape.insert(axis, n);
  return diagonal_scatter(x, shape, {o.offset, o.axis1, o.axis2}, loc);
}

Tensor diag(const Tensor& x, int64_t offset, Loc loc) {
  const OpScope scope("diag");
  check_defined("diag", x, loc);
  if (x.rank() == 1) return diag_embed(x, {.offset = offset}, loc);
  if (x.rank() != 2) fail<ShapeError>(loc, "diag: expected rank 1 or 2, got shape {}", x.shape());
  return diagonal(x, {.offset = offset}, loc);
}

Tensor trace(const Tensor& x, Loc loc) {
  const OpScope scope("trace");
  check_defined("trace", x, loc);
  if (x.rank() != 2) fail<ShapeError>(loc, "trace: expected a matrix, got shape {}", x.shape());
  return sum(diagonal(x, {}, loc), {}, false, loc);
}

Tensor tril(const Tensor& x, int64_t diagonal, Loc loc) { return triangle("tril", le, x, diagonal, loc); }
Tensor triu(const Tensor& x, int64_t diagonal, Loc loc) { return triangle("triu", ge, x, diagonal, loc); }

namespace {
using Inputs = std::vector<Tensor>;

RegisterOp with_shapes(const char* name, const char* signature, const char* formula,
                       const std::vector<std::pair<Shape, Tensor (*)(const Tensor&)>>& calls) {
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
