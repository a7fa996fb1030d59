// linear: one product over all rows, its bias fused, the weight read transposed where it lies.
#include "flame/ops/linear.h"

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/matmul.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

int64_t rows_of(const Shape& s) {
  int64_t rows = 1;
  for (int i = 0; i + 1 < s.rank(); ++i) rows *= s[i];
  return rows;
}

// As a matrix at least: a vector is one row.
Meta matrix(const Meta& m) {
  if (m.shape.rank() > 1) return m;
  return {m.dtype, {1, m.shape[0]}, {m.shape[0] * m.strides[0], m.strides[0]}};
}

// (x [..., in], weight [out, in], bias [out] or left out), shapes checked.
class Linear final : public Op {
 public:
  explicit Linear(bool bias) : bias_(bias) {}
  const char* name() const override { return "linear"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    Shape out = in[0].shape();
    out[out.rank() - 1] = in[1].shape()[0];
    return {contiguous_meta(in[0].dtype(), out)};
  }
  Layout layout(int input, const Meta&) const override { return input == 2 ? Layout::contiguous : Layout::any; }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const Meta& w = in[1];
    const Meta transposed{w.dtype, {w.shape[1], w.shape[0]}, {w.strides[1], w.strides[0]}};
    return d.gemm({matrix(in[0]), transposed, matrix(out[0]), in.size() == 3, matmul_precision() == "high"});
  }
  void key(Key& k) const override { k << deterministic() << matmul_precision(); }
  bool saves_input(int i) const override { return i != 2; }
  void vjp(Vjp& v) const override {
    const Loc loc = v.call_site();
    const Tensor g = v.grad(0);
    const Shape& x = v.input_meta(0).shape;
    const int64_t rows = rows_of(x), out = g.shape().back();
    if (bias_ && v.needs(2)) v.give(2, sum_to(g, {out}, loc));  // first: it joins the island that makes g
    if (v.needs(0)) v.give(0, matmul(g, v.input(1), loc));
    const Tensor flat = g.reshape({rows, out}, loc);
    if (v.needs(1)) v.give(1, matmul(flat.t(loc), v.input(0).reshape({rows, x.back()}, loc), loc));
  }

 private:
  bool bias_;
};

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Loc loc) {
  check_inputs("linear", {&x, &weight}, {&bias}, loc);
  if (weight.rank() != 2) fail<ShapeError>(loc, "linear: expected a weight of rank 2, got {}", weight.shape());
  if (x.rank() == 0 || x.shape().back() != weight.shape()[1])
    fail<ShapeError>(loc, "linear: expected x [..., {}] for weight {}, got {}", weight.shape()[1], weight.shape(),
                     x.shape());
  if (bias.defined() && bias.shape() != Shape{weight.shape()[0]})
    fail<ShapeError>(loc, "linear: expected a bias of shape [{}], got {}", weight.shape()[0], bias.shape());
  DType t = promote(x.dtype(), weight.dtype());
  if (bias.defined()) t = promote(t, bias.dtype());
  if (t == DType::boolean) fail<DTypeError>(loc, "linear: expected numbers, got bool tensors");
  const Tensor a = x.to(t, loc), w = weight.to(t, loc);
  if (!bias.defined()) return dispatch(make_ref<Linear>(false), {a, w}, loc);
  return dispatch(make_ref<Linear>(true), {a, w, bias.to(t, loc)}, loc);
}

namespace {
const RegisterOp registered({
    .name = "linear",
    .signature = "linear(x, weight, bias = {})",
    .formula = "out[..., j] = sum over i of x[..., i] weight[j, i], + bias[j]",
    .samples =
        [](DType t) {
          const auto fn = [](const std::vector<Tensor>& in) {
            return std::vector<Tensor>{linear(in[0], in[1], in.size() > 2 ? in[2] : Tensor())};
          };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({3, 4}, t, 1), uniform({5, 4}, t, 2), uniform({5}, t, 3)}, fn, "rows and bias"},
              {{uniform({3, 4}, t, 1), uniform({5, 4}, t, 2)}, fn, "no bias"},
              {{uniform({4}, t, 1), uniform({2, 4}, t, 2), uniform({2}, t, 3)}, fn, "vector"},
              {{transposed({2, 3, 4}, t, 1), transposed({2, 4}, t, 2), strided({2}, t, 3)}, fn, "rank 3, transposed"},
              {{strided({3, 4}, t, 1), strided({1, 4}, t, 2), uniform({1}, t, 3)}, fn, "one output, strided"},
              {{uniform({0, 4}, t, 1), uniform({3, 4}, t, 2), uniform({3}, t, 3)}, fn, "no rows"},
              {{uniform({2, 0}, t, 1), uniform({3, 0}, t, 2), uniform({3}, t, 3)}, fn, "no inputs"},
          };
        },
});
}  // namespace

}  // namespace flame
