// A piece of a step that happens as a whole or not at all.
#pragma once
#include <type_traits>
#include <utility>

#include "flame/tensor/undo.h"

namespace flame {

// fn(), and if it throws (out of memory, a NaN that anomaly mode found), everything it changed on this thread is as before:
// States (the running statistics of a batch norm), generators, and the gradients of leaves. It can simply be tried again:
//   attempt([&] { backward(loss_of(batch)); opt.step(); });
// An optimizer's step is all or nothing by itself; its count of steps is taken back too, that of an EMA's updates is not. Keeps the
// old gradients, and in host memory the old bytes of each State from its first write on: with the optimizer's step inside these
// are the parameters and moments too. Around a recorded step, eager runs are
// covered; a replay allocates nothing, but one that ends with another error (a target out of range) is not taken back. An
// attempt inside a recorded step must not fail: a replay would repeat what it left.
// Tensors that leave a failed attempt otherwise than as its result are not to be read if they are States it wrote.
template <class F>
std::invoke_result_t<F> attempt(F&& fn) {
  using Result = std::invoke_result_t<F>;
  const UndoScope scope;
  if constexpr (std::is_void_v<Result>) {
    std::forward<F>(fn)();
    UndoScope::settle();
  } else {
    Result out = std::forward<F>(fn)();
    UndoScope::settle();
    return static_cast<Result&&>(out);
  }
}

}  // namespace flame
