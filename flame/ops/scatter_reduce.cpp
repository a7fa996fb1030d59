// scatter_reduce over the kernel of scatter. Gradients as in PyTorch: a product's through quotients, where a single zero is
// left out instead, a maximum's evenly to all that equal it.
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/gather.h"
#include "flame/ops/mask.h"
#include "flame/ops/samples_internal.h"
#include "flame/ops/scatter.h"
#include "flame/ops/scatter_internal.h"

namespace flame {
namespace {

constexpr const char* op = "scatter_reduce";

// A call whose arguments are of one rank above 0. It keeps no tensor, so that rules may hold it.
struct Call {
  int64_t axis;
  Loc loc;

  Tensor sum(const Tensor& x, const Tensor& index, const Tensor& src) const {
    return scatter_add(x, axis, index, src, loc);
  }
  Tensor at(const Tensor& index, const Tensor& x) const { return gather(x, axis, index, loc); }
  Tensor product(const Tensor& x, const Tensor& index, const Tensor& src) const;
  Tensor products_of_others(const Tensor& g, const Tensor& x, const Tensor& index, const Tensor& src,
                            bool create_graph) const;
  Tensor extreme(ScatterMode mode, const Tensor& x, const Tensor& index, const Tensor& src) const;
  Tensor raw(ScatterMode mode, const Tensor& x, const Tensor& index, const Tensor& src) const {
    return no_grad([&] { return scatter_combined(op, mode, x.detach(), axis, index, src.detach(), loc); });
  }
};

// For each of src: g times the product of everything else at its place. The zeros of a place are taken out of the product
// that is divided; what they multiply is 0 or, for the only one, 1. Where that has a slope (one zero for an element that is
// none, another one for a zero) it is their sum, which is 0 as well.
Tensor Call::products_of_others(const Tensor& g, const Tensor& x, const Tensor& index, const Tensor& src,
                                bool create_graph) const {
  const Tensor x_zero = eq(x, 0, loc), src_zero = eq(src, 0, loc);
  const Tensor zeros_there = at(index, sum(x_zero.to(x.dtype(), loc), index, src_zero.to(x.dtype(), loc)));
  const Tensor rest = product(masked_fill(x, x_zero, 1, loc), index, masked_fill(src, src_zero, 1, loc));
  const Tensor scaled = at(index, mul(g, rest, loc));
  Tensor none = eq(zeros_there, 0, loc).to(x.dtype(), loc), alone = eq(zeros_there, 1, loc).to(x.dtype(), loc);
  if (create_graph) {
    const Tensor zeros = at(index, sum(where(x_zero, x, 0, loc), index, where(src_zero, src, 0, loc)));
    none = where(eq(zeros_there, 1, loc), zeros, none, loc);
    alone = where(eq(zeros_there, 2, loc), sub(zeros, src, loc), alone, loc);
  }
  return where(src_zero, mul(scaled, alone, loc), div(mul(scaled, none, loc), masked_fill(src, src_zero, 1, loc), loc),
               loc);
}

Tensor Call::product(const Tensor& x, const Tensor& index, const Tensor& src) const {
  const Tensor y = raw(ScatterMode::prod, x, index, src);
  return with_rule(
      op, std::vector<Tensor>{x, src}, {y}, {x, src, index},
      [call = *this](const CustomContext& c) {
        const Tensor &x = c.saved[0], &src = c.saved[1], &index = c.saved[2], &g = c.grads[0];
        Tensor to_x, to_src;
        if (c.needs[0]) to_x = mul(g, call.product(ones_like(x, call.loc), index, src), call.loc);
        if (c.needs[1]) to_src = call.products_of_others(g, x, index, src, c.create_graph);
        return std::vector<Tensor>{to_x, to_src};
      },
      loc)[0];
}

Tensor Call::extreme(ScatterMode mode, const Tensor& x, const Tensor& index, const Tensor& src) const {
  const Tensor y = raw(mode, x, index, src);
  return with_rule(
      op, std::vector<Tensor>{x, src}, {y}, {x.detach(), src.detach(), y.detach(), index},
      [call = *this](const CustomContext& c) {
        const Loc& loc = call.loc;
        const Tensor y = c.saved[2].detach(), &index = c.saved[3];
        const Tensor x_is = eq(c.saved[0], y, loc), src_is = eq(c.saved[1], call.at(index, y), loc);
        const DType t = y.dtype();
        const Tensor count = call.sum(x_is.to(t, loc), index, src_is.to(t, loc));
        const Tensor share = div(c.grads[0], count, loc);
        return std::vector<Tensor>{where(x_is, share, 0, loc), where(src_is, call.at(index, share), 0, loc)};
      },
      loc)[0];
}

// What leaves any element as it is when it is combined with it.
Scalar identity(ScatterReduce r, DType t) {
  if (r == ScatterReduce::prod) return 1;
  if (r == ScatterReduce::sum || r == ScatterReduce::mean) return 0;
  const bool low = r == ScatterReduce::amax;
  return visit_dtype(t, [&](auto v) -> Scalar {
    using T = decltype(v);
    if constexpr (std::is_integral_v<T>) return low ? std::numeric_limits<T>::min() : std::numeric_limits<T>::max();
    else return low ? -HUGE_VAL : HUGE_VAL;
  });
}

}  // namespace

Tensor scatter_reduce(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src, ScatterReduce reduce,
                      const ScatterReduceOptions& o, Loc loc) {
  const OpScope scope(op);
  check_inputs("scatter_reduce", {&x, &index, &src}, loc);
  if (x.dtype() == DType::boolean) fail<DTypeError>(loc, "scatter_reduce: expected numbers, got bool");
  if (reduce == ScatterReduce::mean && !is_float(x.dtype()))
    fail<DTypeError>(loc, "scatter_reduce: expected a floating dtype for the mean, got {}", x.dtype());
  // A mean is rounded once, and a product's gradient divides what is not rounded yet.
  const bool narrow = is_float(x.dtype()) && size_of(x.dtype()) == 2 && src.dtype() == x.dtype();
  if (narrow && (reduce == ScatterReduce::mean || reduce == ScatterReduce::prod))
    return scatter_reduce(x.to(DType::f32, loc), axis, index, src.to(DType::f32, loc), reduce, o, loc)
        .to(x.dtype(), loc);
  if (x.rank() == 0) return scatter_reduce(x.reshape({1}, loc), axis, index, src, reduce, o, loc).reshape({}, loc);
  const Tensor k = index.rank() == 0 ? index.reshape({1}, loc) : index,
               s = src.rank() == 0 ? src.reshape({1}, loc) : src;
  const Call call{axis, loc};
  Tensor from = s;  // in the index's shape, if it is large enough; the kernel's checks come later
  bool fits = s.rank() == k.rank();
  for (int i = 0; fits && i < k.rank(); ++i) fits = k.shape()[i] <= s.shape()[i];
  for (int i = 0; fits && i < k.rank(); ++i) from = from.narrow(i, 0, k.shape()[i], loc);
  const Tensor self =
      o.include_self
          ? x
          : scatter_combined(op, ScatterMode::assign, x, axis, k,
                             full({}, identity(reduce, x.dtype()), x.dtype(), x.device(), loc).expand(k.shape(), loc),
                             loc);
  switch (reduce) {
    case ScatterReduce::prod: return call.product(self, k, from);
    case ScatterReduce::amax: return call.extreme(ScatterMode::amax, self, k, from);
    case ScatterReduce::amin: return call.extreme(ScatterMode::amin, self, k, from);
    case ScatterReduce::sum: return scatter_combined(op, ScatterMode::sum, self, axis, k, from, loc);
    case ScatterReduce::mean: break;
  }
  const Tensor total = scatter_combined(op, ScatterMode::sum, self, axis, k, from, loc);
  const Tensor one = full({}, 1, DType::i64, x.device(), loc);
  const Tensor count = scatter_add(full(x.shape(), o.include_self ? 1 : 0, DType::i64, x.device(), loc), axis, k,
                                   one.expand(k.shape(), loc), loc);
  return div(total, maximum(count, 1, loc).to(x.dtype(), loc), loc);
}

}  // namespace flame
