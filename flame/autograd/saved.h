// Hooks on what ops save for backward: to keep it elsewhere, smaller, or not at all.
#pragma once
#include <any>
#include <functional>
#include <memory>

#include "flame/tensor/tensor.h"

namespace flame {

struct SavedTensorHooks {
  std::function<std::any(const Tensor&)> pack;  // once, when an op saves a tensor; the tensor carries no gradient
  // Each time a backward needs it: a tensor of the same shape, dtype and device, else AutogradError at the forward's line.
  std::function<Tensor(const std::any&)> unpack;
};

// While one lives, what ops on this thread save goes through `hooks`: inputs, outputs and parameters alike, in the order
// of the ops. The innermost scope counts alone. Both hooks run without a graph; unpack runs on the thread of the backward.
// An exception of a hook reaches the caller of the op or of backward.
class SavedTensorHooksScope {
 public:
  explicit SavedTensorHooksScope(SavedTensorHooks hooks, Loc loc = Loc::current());  // ValueError if one is missing
  ~SavedTensorHooksScope();
  SavedTensorHooksScope(const SavedTensorHooksScope&) = delete;
  SavedTensorHooksScope& operator=(const SavedTensorHooksScope&) = delete;

  static const std::shared_ptr<const SavedTensorHooks>& current();  // of this thread, or null

 private:
  std::shared_ptr<const SavedTensorHooks> before_;
};

}  // namespace flame
