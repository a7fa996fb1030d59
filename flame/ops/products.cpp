// Products with fixed ranks: each checks its shapes under its own name and leaves the work to matmul, einsum's
// contraction or a multiplication.
#include "flame/ops/products.h"

#include <array>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/cat.h"
#include "flame/ops/einsum.h"
#include "flame/ops/einsum_internal.h"
#include "flame/ops/matmul.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

void check_ranks(const char* op, const Tensor& a, int rank_a, const Tensor& b, int rank_b, Loc loc) {
  product_dtype(op, std::array{a, b}, loc);
  if (a.rank() != rank_a || b.rank() != rank_b)
    fail<ShapeError>(loc, "{}: expected ranks {} and {}, got shapes {} and {}", op, rank_a, rank_b, a.shape(),
                     b.shape());
}
void check_equal(const char* op, const char* what, const Tensor& a, int axis_a, const Tensor& b, int axis_b, Loc loc) {
  if (a.shape()[axis_a] != b.shape()[axis_b])
    fail<ShapeError>(loc, "{}: {} sizes {} and {} differ (shapes {} and {})", op, what, a.shape()[axis_a],
                     b.shape()[axis_b], a.shape(), b.shape());
}
void check_matrices(const char* op, const Tensor& a, const Tensor& b, Loc loc) {
  check_ranks(op, a, 2, b, 2, loc);
  check_equal(op, "inner", a, 1, b, 0, loc);
}
void check_vector(const char* op, const Tensor& a, const Tensor& x, Loc loc) {
  check_ranks(op, a, 2, x, 1, loc);
  check_equal(op, "inner", a, 1, x, 0, loc);
}
void check_batches(const char* op, const Tensor& a, const Tensor& b, Loc loc) {
  check_ranks(op, a, 3, b, 3, loc);
  check_equal(op, "batch", a, 0, b, 0, loc);
  check_equal(op, "inner", a, 2, b, 1, loc);
}
void check_lengths(const char* op, const Tensor& a, const Tensor& b, Loc loc) {
  check_ranks(op, a, 1, b, 1, loc);
  check_equal(op, "vector", a, 0, b, 0, loc);
}

bool is(const Scalar& s, int64_t n) {
  return s.kind == Scalar::Kind::floating ? s.value == static_cast<double>(n) : s.integral == n;
}
Tensor scaled(const Tensor& t, const Scalar& by, Loc loc) { return is(by, 1) ? t : mul(t, by, loc); }

// beta input + alpha product(). An input that does not count still has to fit, and still gets a gradient: zeros.
template <class F>
Tensor added(const char* op, const Tensor& input, const Tensor& factor, const Shape& out, const AddProductOptions& o,
             Loc loc, F&& product) {
  if (!input.defined()) fail<ValueError>(loc, "{}: the input to add to is undefined", op);
  if (&input.device() != &factor.device())
    fail<DeviceError>(loc, "{}: the input is on {}, the factors are on {}", op, input.device().name(),
                      factor.device().name());
  Shape joined;
  if (!broadcast_shapes(input.shape(), out, joined) || joined != out)
    fail<ShapeError>(loc, "{}: an input of {} does not broadcast to {}", op, input.shape(), out);
  const Tensor right = scaled(product(), o.alpha, loc);
  if (is(o.beta, 0)) return add(where(lt(input, input, loc), input, 0, loc), right, loc);
  return add(scaled(input, o.beta, loc), right, loc);
}

}  // namespace

Tensor dot(const Tensor& a, const Tensor& b, Loc loc) {
  const OpScope scope("dot");
  check_lengths("dot", a, b, loc);
  return tensordot(a, b, 1, loc);
}
Tensor vdot(const Tensor& a, const Tensor& b, Loc loc) {
  const OpScope scope("vdot");
  check_lengths("vdot", a, b, loc);
  return tensordot(a, b, 1, loc);
}
Tensor inner(const Tensor& a, const Tensor& b, Loc loc) {
  const OpScope scope("inner");
  product_dtype("inner", std::array{a, b}, loc);
  if (a.rank() == 0 || b.rank() == 0) return mul(a, b, loc);
  check_equal("inner", "last", a, a.rank() - 1, b, b.rank() - 1, loc);
  return tensordot(a, b, {-1}, {-1}, loc);
}
Tensor outer(const Tensor& a, const Tensor& b, Loc loc) {
  const OpScope scope("outer");
  check_ranks("outer", a, 1, b, 1, loc);
  return mul(a.unsqueeze(1, loc), b, loc);
}
Tensor mv(const Tensor& a, const Tensor& x, Loc loc) {
  if (const AutocastCall cast{"mv", {&a, &x}}) return mv(cast(a, loc), cast(x, loc), loc);
  const OpScope scope("mv");
  check_vector("mv", a, x, loc);
  return matmul(a, x, loc);
}
Tensor mm(const Tensor& a, const Tensor& b, Loc loc) {
  if (const AutocastCall cast{"mm", {&a, &b}}) return mm(cast(a, loc), cast(b, loc), loc);
  const OpScope scope("mm");
  check_matrices("mm", a, b, loc);
  return matmul(a, b, loc);
}
Tensor bmm(const Tensor& a, const Tensor& b, Loc loc) {
  if (const AutocastCall cast{"bmm", {&a, &b}}) return bmm(cast(a, loc), cast(b, loc), loc);
  const OpScope scope("bmm");
  check_batches("bmm", a, b, loc);
  return matmul(a, b, loc);
}

Tensor addmm(const Tensor& input, const Tensor& a, const Tensor& b, const AddProductOptions& options, Loc loc) {
  if (const AutocastCall cast{"addmm", {&input, &a, &b}})
    return addmm(cast(input, loc), cast(a, loc), cast(b, loc), options, loc);
  const OpScope scope("addmm");
  check_matrices("addmm", a, b, loc);
  return added("addmm", input, a, {a.shape()[0], b.shape()[1]}, options, loc, [&] { return matmul(a, b, loc); });
}
Tensor addmv(const Tensor& input, const Tensor& a, const Tensor& x, const AddProductOptions& options, Loc loc) {
  if (const AutocastCall cast{"addmv", {&input, &a, &x}})
    return addmv(cast(input, loc), cast(a, loc), cast(x, loc), options, loc);
  const OpScope scope("addmv");
  check_vector("addmv", a, x, loc);
  return added("addmv", input, a, {a.shape()[0]}, options, loc, [&] { return matmul(a, x, loc); });
}
Tensor addr(const Tensor& input, const Tensor& a, const Tensor& b, const AddProductOptions& options, Loc loc) {
  if (const AutocastCall cast{"addr", {&input, &a, &b}})
    return addr(cast(input, loc), cast(a, loc), cast(b, loc), options, loc);
  const OpScope scope("addr");
  check_ranks("addr", a, 1, b, 1, loc);
  return added("addr", input, a, {a.shape()[0], b.shape()[0]}, options, loc, [&] { return outer(a, b, loc); });
}
Tensor baddbmm(const Tensor& input, const Tensor& a, const Tensor& b, const AddProductOptions& options, Loc loc) {
  if (const AutocastCall cast{"baddbmm", {&input, &a, &b}})
    return baddbmm(cast(input, loc), cast(a, loc), cast(b, loc), options, loc);
  const OpScope scope("baddbmm");
  check_batches("baddbmm", a, b, loc);
  return added("baddbmm", input, a, {a.shape()[0], a.shape()[1], b.shape()[2]}, options, loc,
               [&] { return matmul(a, b, loc); });
}
Tensor addbmm(const Tensor& input, const Tensor& a, const Tensor& b, const AddProductOptions& options, Loc loc) {
  if (const AutocastCall cast{"addbmm", {&input, &a, &b}})
    return addbmm(cast(input, loc), cast(a, loc), cast(b, loc), options, loc);
  const OpScope scope("addbmm");
  check_batches("addbmm", a, b, loc);
  return added("addbmm", input, a, {a.shape()[1], b.shape()[2]}, options, loc, [&] {
    return tensordot(a, b, {0, 2}, {0, 1}, loc);
  });
}

Tensor kron(const Tensor& a, const Tensor& b, Loc loc) {
  const OpScope scope("kron");
  product_dtype("kron", std::array{a, b}, loc);
  const int rank = std::max(a.rank(), b.rank());
  if (2 * rank > max_rank)
    fail<ShapeError>(loc, "kron: expected at most {} axes, got shapes {} and {}", max_rank / 2, a.shape(), b.shape());
  Shape left, right, out;
  const auto size = [&](const Tensor& t, int i) {
    const int k = i - (rank - t.rank());
    return k < 0 ? 1 : t.shape()[k];
  };
  for (int i = 0; i < rank; ++i) {
    left.push_back(size(a, i));
    left.push_back(1);
    right.push_back(1);
    right.push_back(size(b, i));
    out.push_back(size(a, i) * size(b, i));
  }
  return mul(a.reshape(left, loc), b.reshape(right, loc), loc).reshape(out, loc);
}

Tensor cross(const Tensor& a, const Tensor& b, int64_t axis, Loc loc) {
  if (const AutocastCall cast{"cross", {&a, &b}}) return cross(cast(a, loc), cast(b, loc), axis, loc);
  const OpScope scope("cross");
  product_dtype("cross", std::array{a, b}, loc);
  if (a.rank() != b.rank())
    fail<ShapeError>(loc, "cross: expected tensors of one rank, got shapes {} and {}", a.shape(), b.shape());
  const int at = normalize_axis("cross", axis, a.rank(), loc);
  if (a.shape()[at] != 3 || b.shape()[at] != 3)
    fail<ShapeError>(loc, "cross: expected three components along axis {}, got shapes {} and {}", at, a.shape(),
                     b.shape());
  Shape joined;
  if (!broadcast_shapes(a.shape(), b.shape(), joined))
    fail<ShapeError>(loc, "cross: shapes {} and {} do not broadcast", a.shape(), b.shape());
  const auto turned = [&](const Tensor& t, int64_t by) {
    return cat({t.narrow(at, by, 3 - by, loc), t.narrow(at, 0, by, loc)}, at, loc);
  };
  return sub(mul(turned(a, 1), turned(b, 2), loc), mul(turned(a, 2), turned(b, 1), loc), loc);
}

}  // namespace flame
