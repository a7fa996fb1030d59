// Activation checkpointing (Chen et al. 2016): a segment whose ops save nothing; backward runs it once more to get what they
// would have saved.
#pragma once
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include "flame/tensor/tensor.h"

namespace flame {

// fn(inputs), with the same results and the same gradients, bit for bit, for less memory and a second run of fn inside
// backward: when the first saved tensor of the segment is needed, once a backward pass. fn may capture parameters and other
// tensors, hold other checkpoints, stand in a recorded step, and be differentiated again (create_graph).
//
// The second run sees what the first one saw: every State has the value it had then, every generator stands where it stood
// (also if the scopes around have ended), and what is written (the running statistics of a batch norm) goes to a copy that
// is dropped. Anything else fn depends on is the caller's affair, such as train or eval mode: if the second run does not
// save tensors of the same shapes and dtypes in the same order, backward throws AutogradError at the call's line.
// fn is kept as long as the graph: what it captures by reference must live until then. Where no graph is built, this is
// fn(inputs) alone.
std::vector<Tensor> checkpoint(std::function<std::vector<Tensor>(const std::vector<Tensor>&)> fn,
                               const std::vector<Tensor>& inputs, Loc loc = Loc::current());

// The same for functions of one to four tensors that give a Tensor or a std::vector<Tensor>:
// Tensor y = checkpoint([&](const Tensor& x) { return block.forward(x); }, x);
template <class F, class... In>
auto checkpoint_call(F fn, Loc loc, const In&... in) {
  using Result = std::decay_t<std::invoke_result_t<F&, const In&...>>;
  const auto spread = [fn = std::move(fn)](const std::vector<Tensor>& all) mutable -> std::vector<Tensor> {
    return [&]<size_t... I>(std::index_sequence<I...>) -> std::vector<Tensor> {
      if constexpr (std::is_same_v<Result, Tensor>) return {fn(all[I]...)};
      else return fn(all[I]...);
    }(std::index_sequence_for<In...>{});
  };
  std::vector<Tensor> out = checkpoint(spread, {in...}, loc);
  if constexpr (std::is_same_v<Result, Tensor>) return std::move(out[0]);
  else return out;
}
template <class F>
  requires std::is_invocable_v<F&, const Tensor&>
auto checkpoint(F fn, const Tensor& a, Loc loc = Loc::current()) {
  return checkpoint_call(std::move(fn), loc, a);
}
template <class F>
auto checkpoint(F fn, const Tensor& a, const Tensor& b, Loc loc = Loc::current()) {
  return checkpoint_call(std::move(fn), loc, a, b);
}
template <class F>
auto checkpoint(F fn, const Tensor& a, const Tensor& b, const Tensor& c, Loc loc = Loc::current()) {
  return checkpoint_call(std::move(fn), loc, a, b, c);
}
template <class F>
auto checkpoint(F fn, const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& d, Loc loc = Loc::current()) {
  return checkpoint_call(std::move(fn), loc, a, b, c, d);
}

}  // namespace flame
