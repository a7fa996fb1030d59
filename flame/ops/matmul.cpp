// matmul: ranks are brought to batches of matrices by views; one op does the product, and its gradients are products.
#include "flame/ops/matmul.h"

#include <atomic>

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

std::atomic<bool> tf32_products{false};

Shape batch_of(const Shape& s) {
  Shape batch = s;
  batch.erase(s.rank() - 1);
  batch.erase(s.rank() - 2);
  return batch;
}

// (a [..., m, k], b [..., k, n]) of one dtype, shapes checked -> [..., m, n].
class MatMul final : public Op {
 public:
  const char* name() const override { return "matmul"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    const Shape &a = in[0].shape(), &b = in[1].shape();
    Shape out;
    broadcast_shapes(batch_of(a), batch_of(b), out);
    out.push_back(a[a.rank() - 2]);
    out.push_back(b.back());
    return {contiguous_meta(in[0].dtype(), out)};
  }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    return d.gemm({.a = in[0], .b = in[1], .c = out[0], .tf32 = tf32_products});
  }
  int64_t flops(std::span<const Meta> in, std::span<const Meta> out) const override {
    return 2 * numel(out[0].shape) * in[0].shape.back();
  }
  void key(Key& k) const override { k << deterministic() << tf32_products.load(); }
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    const Tensor g = v.grad(0);
    if (v.needs(0)) v.give(0, sum_to(matmul(g, v.input(1).t(loc), loc), v.input_meta(0).shape, loc));
    if (v.needs(1)) v.give(1, sum_to(matmul(v.input(0).t(loc), g, loc), v.input_meta(1).shape, loc));
  }
};

void check(const Tensor& a, const Tensor& b, Loc loc) {
  check_inputs("matmul", {&a, &b}, loc);
  const Shape &s = a.shape(), &t = b.shape();
  if (s.rank() == 0 || t.rank() == 0)
    fail<ShapeError>(loc, "matmul: expected rank 1 or more, got shapes {} and {}", s, t);
  if (promote(a.dtype(), b.dtype()) == DType::boolean)
    fail<DTypeError>(loc, "matmul: expected numbers, got two bool tensors");
  const int64_t inner = s.back(), other = t[std::max(0, t.rank() - 2)];
  if (inner != other)
    fail<ShapeError>(loc, "matmul: inner sizes {} and {} differ (shapes {} and {})", inner, other, s, t);
  Shape batch;
  if (s.rank() > 2 && t.rank() > 2 && !broadcast_shapes(batch_of(s), batch_of(t), batch))
    fail<ShapeError>(loc, "matmul: the batch axes of shapes {} and {} do not broadcast", s, t);
}

// Many rows times one matrix are one product; so are their gradients.
Tensor rows_times_matrix(const Tensor& a, const Tensor& b, Loc loc) {
  Shape out = a.shape(), flat{numel(batch_of(a.shape())) * a.shape()[a.rank() - 2], a.shape().back()};
  out[a.rank() - 1] = b.shape().back();
  return dispatch(make_ref<MatMul>(), {a.reshape(flat, loc), b}, loc).reshape(out, loc);
}

}  // namespace

void set_matmul_precision(std::string_view precision, Loc loc) {
  if (precision != "highest" && precision != "high")
    fail<ValueError>(loc, "set_matmul_precision: expected 'highest' or 'high', got '{}'", precision);
  tf32_products = precision == "high";
}
std::string_view matmul_precision() { return tf32_products ? "high" : "highest"; }

Tensor matmul(const Tensor& left, const Tensor& right, Loc loc) {
  if (const AutocastCall cast{"matmul", {&left, &right}}) return matmul(cast(left, loc), cast(right, loc), loc);
  const OpScope scope("matmul");
  check(left, right, loc);
  const DType t = promote(left.dtype(), right.dtype());
  Tensor a = left.to(t, loc), b = right.to(t, loc);
  if (left.rank() == 1) a = a.unsqueeze(0, loc);
  if (right.rank() == 1) b = b.unsqueeze(-1, loc);
  Tensor out = a.rank() > 2 && b.rank() == 2 ? rows_times_matrix(a, b, loc) : dispatch(make_ref<MatMul>(), {a, b}, loc);
  if (left.rank() == 1) out = out.squeeze(-2, loc);
  if (right.rank() == 1) out = out.squeeze(-1, loc);
  return out;
}

namespace {
const RegisterOp registered({
    .name = "matmul",
    .signature = "matmul(a, b)",
    .formula = "out[..., i, j] = sum over p of a[..., i, p] b[..., p, j]",
    .samples =
        [](DType t) {
          const auto fn = [](const std::vector<Tensor>& in) { return std::vector<Tensor>{matmul(in[0], in[1])}; };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({3, 4}, t, 1), uniform({4, 5}, t, 2)}, fn, "matrices"},
              {{transposed({3, 4}, t, 1), uniform({4, 5}, t, 2)}, fn, "transposed left"},
              {{uniform({7, 17}, t, 1), transposed({17, 3}, t, 2)}, fn, "transposed right"},
              {{strided({3, 4}, t, 1), strided({4, 5}, t, 2)}, fn, "strided"},
              {{uniform({4}, t, 1), uniform({4}, t, 2)}, fn, "dot"},
              {{uniform({3, 4}, t, 1), uniform({4}, t, 2)}, fn, "matrix and vector"},
              {{uniform({4}, t, 1), uniform({2, 4, 3}, t, 2)}, fn, "vector and batch"},
              {{uniform({2, 3, 4}, t, 1), transposed({4, 2}, t, 2)}, fn, "batch and matrix"},
              {{uniform({3, 4}, t, 1), uniform({2, 4, 2}, t, 2)}, fn, "matrix and batch"},
              {{uniform({2, 1, 3, 2}, t, 1), transposed({3, 2, 4}, t, 2)}, fn, "broadcast batches"},
              {{uniform({1, 3, 2}, t, 1).expand({2, 3, 2}), uniform({2, 2, 1}, t, 2)}, fn, "expanded batch"},
              {{uniform({0, 3}, t, 1), uniform({3, 2}, t, 2)}, fn, "no rows"},
              {{uniform({2, 0}, t, 1), uniform({0, 3}, t, 2)}, fn, "empty inner axis"},
              {{uniform({1, 1}, t, 1), uniform({1, 1}, t, 2)}, fn, "one element"},
          };
        },
});
}  // namespace

}  // namespace flame
