// index_add, index_copy and index_fill: writing whole slices of one axis by the kernel of advanced indexing.
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/create.h"
#include "flame/ops/gather_internal.h"
#include "flame/ops/index_internal.h"
#include "flame/ops/mask_internal.h"
#include "flame/ops/scatter.h"
#include "flame/ops/view.h"

namespace flame {
namespace {

// x with slices of `src` written, x of rank 1 or more. src: x's shape but for the index's size along the axis.
Tensor put_slices(const char* op, PutMode mode, bool wraps, const Tensor& x, int axis, const Tensor& index,
                  const Tensor& src, Loc loc) {
  const IndexList list{.op = op, .index = {index}, .axes = {axis}, .wraps = wraps};
  return movedim(index_put(list, mode, movedim(x, axis, 0, loc), movedim(src, axis, 0, loc), loc), 0, axis, loc);
}

Tensor checked_slices(const char* op, const Tensor& index, Loc loc) {
  if (index.rank() > 1) fail<ShapeError>(loc, "{}: expected an index of rank 1, got {}", op, index.shape());
  return checked_index(op, with_axis(index, loc), loc);
}

Tensor write_slices(const char* op, PutMode mode, const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src,
                    Loc loc) {
  check_inputs(op, {&x, &index, &src}, loc);
  if (x.rank() == 0)
    return write_slices(op, mode, x.reshape({1}, loc), axis, index, with_axis(src, loc), loc).reshape({}, loc);
  const int a = normalize_axis(op, axis, x.rank(), loc);
  const Tensor k = checked_slices(op, index, loc);
  if (src.dtype() != x.dtype())
    fail<DTypeError>(loc, "{}: expected numbers of one dtype, got {} and {}", op, x.dtype(), src.dtype());
  Shape expected = x.shape();
  expected[a] = k.numel();
  if (src.shape() != expected)
    fail<ShapeError>(loc, "{}: expected src of {} for an index of {} along axis {}, got {}", op, expected,
                     index.shape(), a, src.shape());
  return put_slices(op, mode, false, x, a, k, src, loc);
}

}  // namespace

Tensor index_add(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src, const IndexAddOptions& o,
                 Loc loc) {
  const OpScope scope("index_add");
  check_inputs("index_add", {&x, &index, &src}, loc);
  if (x.dtype() == DType::boolean) fail<DTypeError>(loc, "index_add: expected numbers, got bool");
  if (!is_float(x.dtype()) && o.alpha.kind == Scalar::Kind::floating)
    fail<DTypeError>(loc, "index_add: expected a whole alpha for {}, got {}", x.dtype(), o.alpha.value);
  const bool once = o.alpha.kind == Scalar::Kind::floating ? o.alpha.value == 1 : o.alpha.integral == 1;
  return write_slices("index_add", PutMode::add, x, axis, index, once ? src : mul(src, o.alpha, loc), loc);
}

Tensor index_copy(const Tensor& x, int64_t axis, const Tensor& index, const Tensor& src, Loc loc) {
  const OpScope scope("index_copy");
  return write_slices("index_copy", PutMode::assign, x, axis, index, src, loc);
}

Tensor index_fill(const Tensor& x, int64_t axis, const Tensor& index, const Arg& value, Loc loc) {
  const OpScope scope("index_fill");
  check_inputs("index_fill", {&x, &index}, loc);
  if (value.tensor()) check_inputs("index_fill", {&x, value.tensor()}, loc);
  if (value.tensor() && value.tensor()->rank() != 0)
    fail<ShapeError>(loc, "index_fill: expected a number or a tensor of rank 0, got {}", value.tensor()->shape());
  if (x.rank() == 0) return index_fill(x.reshape({1}, loc), axis, index, value, loc).reshape({}, loc);
  const int a = normalize_axis("index_fill", axis, x.rank(), loc);
  const Tensor k = checked_slices("index_fill", index, loc);
  Shape slices = x.shape();
  slices[a] = k.numel();
  const Tensor v = value.tensor() ? value.tensor()->to(x.dtype(), loc)
                                  : full({}, as_dtype(value.scalar(), x.dtype()), x.dtype(), x.device(), loc);
  return put_slices("index_fill", PutMode::assign, true, x, a, k, v.expand(slices, loc), loc);
}

}  // namespace flame
