// Internal: what the rules of pointwise ops and reductions run in, and a pointwise op by its code.
#pragma once
#include <span>

#include "flame/fuse/island.h"
#include "flame/ops/pointwise.h"

namespace flame {

// While a gradient rule runs: its ops belong to the forward call's line, and numbers that meet no tensor become
// tensors of rank 0.
class RuleScope {
 public:
  RuleScope(const Loc& where, Device& device, DType compute);
  ~RuleScope();
  RuleScope(const RuleScope&) = delete;
  RuleScope& operator=(const RuleScope&) = delete;
  static const RuleScope* current();  // of this thread, or null
  static const Loc& line(const Loc& otherwise) { return current() ? current()->where : otherwise; }
  const Loc& where;
  Device& device;
  const DType dtype;

 private:
  RuleScope* before_;
};

// Derivatives that rows of fuse/pointwise.def and composed activations share.
Tensor silu_slope(const Tensor& x);
Tensor gelu_slope(const Tensor& x);
Tensor gelu_tanh_slope(const Tensor& x);
Tensor mish_slope(const Tensor& x);
Tensor celu_width_slope(const Tensor& q);                // of b (e^q - 1) with q = a / b, towards b
Tensor sinc_slope(const Tensor& x, const Tensor& sinc);  // a series near 0, where the closed form cancels

Tensor call_pointwise(Code code, std::span<const Arg> in, Loc loc = Loc::current());

}  // namespace flame
