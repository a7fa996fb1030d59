// grid_sample, composed: a gather for each corner around a place, weighted. What the corners share is computed once, and
// the weights fuse.
#include "flame/ops/grid_sample.h"

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/gather.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

constexpr const char* op = "grid_sample";

void check(const Tensor& x, const Tensor& grid, Loc loc) {
  check_inputs(op, {&x, &grid}, loc);
  const Shape &s = x.shape(), &g = grid.shape();
  const int axes = s.rank() - 2;
  if (axes != 2 && axes != 3) fail<ShapeError>(loc, "{}: expected x [N, C, H, W] or [N, C, D, H, W], got {}", op, s);
  if (g.rank() != s.rank() || g[0] != s[0] || g[g.rank() - 1] != axes)
    fail<ShapeError>(loc, "{}: x {} needs a grid [{}, {}, {}], got {}", op, s, s[0],
                     axes == 2 ? "H', W'" : "D', H', W'", axes, g);
  for (int i = 0; i < axes; ++i)
    if (s[i + 2] < 1) fail<ShapeError>(loc, "{}: expected elements to sample, got x {}", op, s);
  if (!is_float(x.dtype()) || grid.dtype() != x.dtype())
    fail<DTypeError>(loc, "{}: expected one floating dtype, got {} and {}", op, x.dtype(), grid.dtype());
}

// One axis of all places, as PyTorch's GridSampler.h computes it; what falls outside under zeros stays outside.
struct Along {
  int64_t size;
  const GridSampleOptions& o;
  Loc loc;

  Tensor place(const Tensor& g) const {
    const auto n = static_cast<double>(size);
    Tensor at = add(mul(g, (o.align_corners ? n - 1 : n) / 2, loc), (n - 1) / 2, loc);
    constexpr double far = 0x1p31;  // indices stay finite, and there is no gradient from there
    if (o.padding_mode == GridPadding::zeros) return where(lt(abs(at, loc), far, loc), at, -2, loc);
    if (o.padding_mode == GridPadding::reflection)
      at = o.align_corners ? reflected(at, 0, n - 1) : reflected(at, -0.5, n);
    at = where(gt(at, 0, loc), at, 0, loc);
    return where(lt(at, n - 1, loc), at, n - 1, loc);
  }
  Tensor reflected(const Tensor& at, double low, double span) const {
    if (span == 0) return zeros_like(at, loc);
    const Tensor from = sub(at, low, loc), away = where(lt(from, 0, loc), neg(from, loc), from, loc);
    const Tensor extra = fmod(away, span, loc), flips = floor(div(away.detach(), span, loc), loc);
    const Tensor even = eq(fmod(flips, 2, loc), 0, loc);
    return where(even, add(extra, low, loc), add(sub(span, extra, loc), low, loc), loc);
  }
};

// The two elements beside each place along an axis, or the nearest one: index, whether it exists, weight.
struct Side {
  Tensor index, inside, weight;  // weight is undefined for the nearest
};
std::vector<Side> sides(const Tensor& at, const Along& axis) {
  const Loc& loc = axis.loc;
  const auto side = [&](const Tensor& where_to, const Tensor& weight) {
    const Tensor inside = logical_and(ge(where_to, 0, loc), lt(where_to, axis.size, loc), loc);
    return Side{where(inside, where_to, 0, loc).to(DType::i64, loc), inside, weight};
  };
  if (axis.o.mode == GridMode::nearest) return {side(round(at.detach(), loc), {})};
  const Tensor low = floor(at.detach(), loc), part = sub(at, low, loc);
  return {side(low, sub(1, part, loc)), side(add(low, 1, loc), part)};
}

// Adds the corners that begin with `so_far` and continue with any side of the axes from `axis` on.
void add_corners(const Tensor& flat, const std::vector<std::vector<Side>>& all, const Shape& sizes, size_t axis,
                 const Side& so_far, Tensor& sum, Loc loc) {
  if (axis < all.size()) {
    for (const Side& s : all[axis]) {
      Side next = s;
      if (axis > 0) {
        next.index = add(mul(so_far.index, sizes[static_cast<int>(axis) + 2], loc), s.index, loc);
        next.inside = logical_and(so_far.inside, s.inside, loc);
        if (s.weight.defined()) next.weight = mul(so_far.weight, s.weight, loc);
      }
      add_corners(flat, all, sizes, axis + 1, next, sum, loc);
    }
    return;
  }
  const Tensor there =
      gather(flat, 2, so_far.index.expand({flat.shape()[0], flat.shape()[1], so_far.index.shape()[2]}, loc), loc);
  const Tensor seen =
      where(so_far.inside, there, 0, loc);  // what lies outside is read, but stays out, even if it is Inf
  const Tensor counted = so_far.weight.defined() ? mul(seen, so_far.weight, loc) : seen;
  sum = sum.defined() ? add(sum, counted, loc) : counted;
}

}  // namespace

Tensor grid_sample(const Tensor& x, const Tensor& grid, const GridSampleOptions& o, Loc loc) {
  if (const AutocastCall cast{"grid_sample", {&x, &grid}}) return grid_sample(cast(x, loc), cast(grid, loc), o, loc);
  const OpScope scope(op);
  check(x, grid, loc);
  const DType t = x.dtype(), wide = compute_dtype_of(t);
  const Shape& s = x.shape();
  const int axes = s.rank() - 2;
  Shape out{s[0], s[1]};
  int64_t places = 1, elements = 1;
  for (int i = 0; i < axes; ++i) {
    out.push_back(grid.shape()[i + 1]);
    places *= grid.shape()[i + 1];
    elements *= s[i + 2];
  }
  const Tensor flat = x.to(wide, loc).reshape({s[0], s[1], elements}, loc), g = grid.to(wide, loc);
  std::vector<std::vector<Side>> all;
  for (int i = 0; i < axes; ++i) {
    const Along axis{s[i + 2], o, loc};
    all.push_back(sides(axis.place(g.select(-1, axes - 1 - i, loc).reshape({s[0], 1, places}, loc)), axis));
  }
  Tensor y;
  add_corners(flat, all, s, 0, {}, y, loc);
  y = y.reshape(out, loc).to(t, loc);
  if (o.mode == GridMode::bilinear) return y;
  return with_rule(  // nearest: a step function of the grid
      op, std::vector<Tensor>{y, grid}, {y}, {},
      [shape = grid.shape()](const CustomContext& c) {
        const Tensor& g = c.grads[0];
        return std::vector<Tensor>{g, filled(contiguous_meta(g.dtype(), shape), g.device(), 0)};
      },
      loc)[0];
}

namespace {
const RegisterOp registered({
    .name = op,
    .signature = "grid_sample(x, grid, {mode, padding_mode, align_corners})",
    .formula = "x at the places of the grid: the nearest element, or those around it weighted linearly",
    .samples =
        [](DType t) {
          using namespace samples;
          std::vector<SampleCase> out;
          for (const GridPadding p : {GridPadding::zeros, GridPadding::border, GridPadding::reflection})
            for (const bool align : {false, true}) {
              const GridSampleOptions linear{GridMode::bilinear, p, align}, nearest{GridMode::nearest, p, align};
              const auto fn = [](const GridSampleOptions& o) {
                return [o](const std::vector<Tensor>& in) { return std::vector<Tensor>{grid_sample(in[0], in[1], o)}; };
              };
              const std::string label = "padding " + std::to_string(static_cast<int>(p)) + (align ? ", corners" : "");
              out.push_back({{uniform({2, 2, 3, 4}, t, 1), uniform({2, 3, 2, 2}, t, 2, -1.4, 1.4)}, fn(linear), label});
              out.push_back({{strided({1, 2, 4, 3}, t, 1), uniform({1, 2, 3, 2}, t, 3, -1.4, 1.4)},
                             fn(nearest),
                             label + ", nearest"});
            }
          const auto plain = [](const std::vector<Tensor>& in) {
            return std::vector<Tensor>{grid_sample(in[0], in[1])};
          };
          out.push_back(
              {{transposed({1, 2, 2, 3, 2}, t, 1), strided({1, 2, 1, 2, 3}, t, 2, -1.2, 1.2)}, plain, "volume"});
          out.push_back({{uniform({1, 2, 1, 1}, t, 1), uniform({1, 2, 2, 2}, t, 2, -0.9, 0.9)}, plain, "one element"});
          out.push_back({{uniform({2, 1, 3, 3}, t, 1), uniform({2, 0, 2, 2}, t, 2)}, plain, "no places"});
          return out;
        },
});
}  // namespace

}  // namespace flame
