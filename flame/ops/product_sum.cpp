// Sums of products: a product whose launch reads the sum so far and writes the next one over it.
#include "flame/ops/product_sum_internal.h"

#include "flame/autograd/node.h"
#include "flame/ops/matmul.h"
#include "flame/ops/normalize_internal.h"

namespace flame {
namespace {

// (a [m, k], b [k, n], the sum so far or left out) -> [m, n]
class ProductSum final : public Op {
 public:
  const char* name() const override { return "product_sum"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(compute_dtype_of(in[0].dtype()), {in[0].size(0), in[1].size(1)})};
  }
  Layout layout(int input, const Meta&) const override { return input == 2 ? Layout::contiguous : Layout::any; }
  Ref<Plan> prepare(Device& d, std::span<const Meta> in, std::span<const Meta> out) const override {
    const bool tf32 = matmul_precision() == "high";
    return d.gemm({.a = in[0], .b = in[1], .c = out[0], .tf32 = tf32, .add = in.size() > 2});
  }
  int64_t flops(std::span<const Meta> in, std::span<const Meta> out) const override {
    return 2 * numel(out[0].shape) * in[0].shape[1];
  }
  void key(Key& k) const override { k << deterministic() << matmul_precision(); }
  bool differentiable() const override { return false; }
};

}  // namespace

Tensor add_product(Tensor sum, const Tensor& a, const Tensor& b, Loc loc) {
  const bool first = !sum.defined();
  if (!a.device().fuses()) {
    const Tensor product = matmul(a.detach(), b.detach(), loc).to(compute_dtype_of(a.dtype()), loc);
    return first ? product : add(sum, product, loc);
  }
  const Tensor in[] = {a.detach(), b.detach(), std::move(sum)};
  return dispatch_over(make_ref<ProductSum>(), std::span(in, first ? 2 : 3), 2, 0, loc)[0];
}

}  // namespace flame
