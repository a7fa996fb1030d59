// Internal: the one list of what autocast does to an op, and how an op asks for it, which it does first of all. Ops inside an op
// are left alone: what holds is what stands beside the name that the user wrote.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <span>
#include <string_view>

#include "flame/autograd/autocast.h"
#include "flame/tensor/tensor.h"

namespace flame {

// low: inputs in the scope's dtype. wide: 16 bits become float32. widest: inputs in the widest dtype among them.
enum class Precision : uint8_t { low, wide, widest };

// PyTorch's lists for its GPU (ATen/autocast_mode.h, 2.11), as far as the ops are here; those in its words and ours differ as
// docs/mixed-precision.md says.
inline constexpr std::string_view low_ops[] = {"addbmm",
                                               "addmm",
                                               "addmv",
                                               "addr",
                                               "baddbmm",
                                               "bmm",
                                               "conv1d",
                                               "conv2d",
                                               "conv3d",
                                               "einsum",
                                               "conv_transpose1d",
                                               "conv_transpose2d",
                                               "linear",
                                               "linear_cross_entropy",
                                               "matmul",
                                               "mm",
                                               "mv",
                                               "conv_transpose3d",
                                               "feed_forward",
                                               "prelu",
                                               "scaled_dot_product_attention"};
inline constexpr std::string_view wide_ops[] = {"acos",
                                                "asin",
                                                "bce",
                                                "bce_with_logits",
                                                "cosh",
                                                "cosine_embedding_loss",
                                                "cosine_similarity",
                                                "cross_entropy",
                                                "cumprod",
                                                "cumsum",
                                                "erfinv",
                                                "exp",
                                                "expm1",
                                                "gaussian_nll_loss",
                                                "group_norm",
                                                "huber_loss",
                                                "interpolate",
                                                "kl_div",
                                                "l1_loss",
                                                "layer_norm",
                                                "log",
                                                "log10",
                                                "log1p",
                                                "log2",
                                                "log_softmax",
                                                "logsumexp",
                                                "mse_loss",
                                                "nll_loss",
                                                "norm",
                                                "normalize",
                                                "pairwise_distance",
                                                "poisson_nll_loss",
                                                "pow",
                                                "prod",
                                                "reciprocal",
                                                "rsqrt",
                                                "sinh",
                                                "smooth_l1_loss",
                                                "softmax",
                                                "softplus",
                                                "sum",
                                                "tan",
                                                "triplet_margin_loss"};
inline constexpr std::string_view widest_ops[] = {"addcdiv", "addcmul",     "cat", "cross", "dot",       "grid_sample",
                                                  "inner",   "scatter_add", "set", "stack", "tensordot", "vdot"};

constexpr std::optional<Precision> precision_of(std::string_view op) {
  if (std::ranges::find(low_ops, op) != std::end(low_ops)) return Precision::low;
  if (std::ranges::find(wide_ops, op) != std::end(wide_ops)) return Precision::wide;
  if (std::ranges::find(widest_ops, op) != std::end(widest_ops)) return Precision::widest;
  return {};
}

// An op of the list; a name that is not in it does not compile.
class AutocastOp {
 public:
  consteval AutocastOp(const char* name) : precision(precision_of(name).value()), name_(name) {}
  operator const char*() const { return name_; }
  const Precision precision;

 private:
  const char* name_;
};

// Whether this thread casts, here: in a scope, and not inside an op.
bool autocasts();
// Whether it does around this op: casts to 16 bits are likely to follow.
bool within_autocast();

// `if (const AutocastCall cast{"matmul", {&a, &b}}) return matmul(cast(a), cast(b), loc);`: true if an input is to be cast.
// What is called while it lives casts nothing.
class AutocastCall {
 public:
  AutocastCall(AutocastOp op, std::initializer_list<const Tensor*> in);
  AutocastCall(AutocastOp op, std::span<const Tensor> in);
  ~AutocastCall();
  AutocastCall(const AutocastCall&) = delete;
  AutocastCall& operator=(const AutocastCall&) = delete;
  explicit operator bool() const { return to_.has_value(); }
  // A State's tensor, or a view of it, is cast once and kept beside the State.
  Tensor operator()(const Tensor& x, Loc loc) const;

 private:
  std::optional<DType> to_;
  const std::optional<DType> before_;
  void suspend();
};

// The result's dtype of an op of the wide list that computes in float32 as it is, and would round to x's dtype.
DType autocast_result(AutocastOp op, const Tensor& x);

}  // namespace flame
