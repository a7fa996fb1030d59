// softmax and log_softmax: one row pass of an island forward, one backward.
#include "flame/ops/softmax.h"

#include <algorithm>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

int checked(const char* op, const Tensor& x, int64_t axis, Loc loc) {
  check_defined(op, x, loc);
  if (!is_float(x.dtype())) fail<DTypeError>(loc, "{}: expected a floating dtype, got {}", op, x.dtype());
  return normalize_axis(op, axis, std::max(1, x.rank()), loc);  // a tensor without axes is a row of one
}

DType wide(DType t) { return t == DType::f64 ? t : DType::f32; }

}  // namespace

Tensor softmax(const Tensor& x, int64_t axis, Loc loc) {
  const DType t = autocast_result("softmax", x);
  const OpScope scope("softmax");
  const int a = checked("softmax", x, axis, loc);
  if (x.rank() == 0) return softmax(x.reshape({1}, loc), 0, loc).reshape({}, loc).to(t, loc);
  if (x.numel() == 0) return x.to(t, loc);
  const Tensor y = no_grad([&] {
    const Tensor e = exp(sub(x.to(wide(t)), amax(x.to(wide(t)), a, true)));
    return div(e, sum(e, a, true)).to(t);
  });
  const auto rule = [a, t](const CustomContext& c) -> std::vector<Tensor> {
    const Tensor y = c.create_graph ? softmax(c.saved[0].to(t), a) : c.saved[1];
    const Tensor g = c.grads[0].to(wide(t)), p = y.to(wide(t));
    return {mul(p, sub(g, sum(mul(g, p), a, true))).to(c.saved[0].dtype())};
  };
  return with_rule("softmax", {&x, 1}, {y}, {x, y}, rule, loc)[0];
}

Tensor log_softmax(const Tensor& x, int64_t axis, Loc loc) {
  const DType t = autocast_result("log_softmax", x);
  const int a = checked("log_softmax", x, axis, loc);
  if (x.rank() == 0) return log_softmax(x.reshape({1}, loc), 0, loc).reshape({}, loc).to(t, loc);
  if (x.numel() == 0) return x.to(t, loc);
  const Tensor y = no_grad([&] {
    const Tensor shifted = sub(x.to(wide(t)), amax(x.to(wide(t)), a, true));
    return sub(shifted, log(sum(exp(shifted), a, true))).to(t);
  });
  const auto rule = [a, t](const CustomContext& c) -> std::vector<Tensor> {
    const Tensor y = c.create_graph ? log_softmax(c.saved[0].to(t), a) : c.saved[1];
    const Tensor g = c.grads[0].to(wide(t));
    return {sub(g, mul(exp(y.to(wide(t))), sum(g, a, true))).to(c.saved[0].dtype())};
  };
  return with_rule("log_softmax", {&x, 1}, {y}, {x, y}, rule, loc)[0];
}

namespace {
std::vector<SampleCase> cases(DType t, Tensor (*fn)(const Tensor&, int64_t, Loc)) {
  const auto along = [fn](int64_t axis) {
    return [fn, axis](const std::vector<Tensor>& in) { return std::vector<Tensor>{fn(in[0], axis, Loc::current())}; };
  };
  using namespace samples;
  return {
      {{uniform({3, 7}, t)}, along(-1), "rows"},
      {{transposed({5, 4}, t)}, along(1), "rows of a transpose"},
      {{strided({2, 3, 4}, t)}, along(1), "middle axis, strided"},
      {{channels_last({2, 3, 2, 5}, t)}, along(1), "channels last"},
      {{uniform({4, 1}, t)}, along(1), "one class"},
      {{uniform({}, t)}, along(0), "0-d"},
      {{uniform({0, 3}, t)}, along(1), "empty"},
      {{uniform({3, 9}, t, 1, -80, 80)}, along(1), "large numbers"},
  };
}
const RegisterOp registered({.name = "softmax",
                             .signature = "softmax(x, axis)",
                             .formula = "exp(x - max) / sum(exp(x - max))",
                             .samples = [](DType t) { return cases(t, softmax); }});
const RegisterOp registered_log({.name = "log_softmax",
                                 .signature = "log_softmax(x, axis)",
                                 .formula = "x - max - log(sum(exp(x - max)))",
                                 .samples = [](DType t) { return cases(t, log_softmax); }});
}  // namespace

}  // namespace flame
