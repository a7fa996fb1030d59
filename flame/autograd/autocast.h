// Mixed precision as a scope: products in 16 bits, sums, losses and what is steep in float32, weights and gradients in
// float32 throughout. docs/mixed-precision.md lists the ops.
#pragma once
#include <optional>
#include <utility>

#include "flame/core/dtype.h"
#include "flame/core/error.h"

namespace flame {

// While one lives, the ops of this thread take their inputs in the dtype of their list: products, convolutions and attention
// in `t` (float16 or bfloat16, else DTypeError), losses, norms, sums and powers in float32, the others as they come. Calls
// with a float64 input stay as they are. Scopes nest; nothing, or NoAutocast, ends one for a while. A backward computes in the
// dtypes of its forward, inside the scope or outside, and gives float32 gradients to float32 weights.
class AutocastScope {
 public:
  explicit AutocastScope(std::optional<DType> t, Loc loc = Loc::current());
  ~AutocastScope();
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  const std::optional<DType> before_;
};
struct NoAutocast : AutocastScope {
  NoAutocast() : AutocastScope(std::nullopt) {}
};
std::optional<DType> autocast_dtype();  // of this thread, or nothing

template <class F>
decltype(auto) autocast(DType t, F&& fn, Loc loc = Loc::current()) {
  const AutocastScope scope(t, loc);
  return std::forward<F>(fn)();
}

}  // namespace flame
