// record(fn): runs a step eagerly a couple of times, then replays it from a flat list of launches over planned memory.
// Every call is exactly one step. A miss (other shapes, another mode) runs eagerly and is counted with its reason.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <tuple>

#include "flame/tensor/tensor.h"

namespace flame {

struct RecordOptions {
  int warmup = 2;      // eager calls per signature before the recording is used; at least 2, since two must agree
  int verify = 0;      // every n-th replay is run eagerly as well and compared bit for bit; 0: never
  int max_recordings = 8;  // one a signature; the oldest leaves
};

struct RecordStats {
  uint64_t calls = 0, replays = 0, recordings = 0, misses = 0;
  size_t arena_bytes = 0;        // of the last recording
  size_t launches = 0;           // of the last recording
  std::string last_miss;         // why the last call that could have been a replay was not
};

// The untyped core: tensors in, tensors out. Outputs of a replay stay valid until the next call.
class RecordedStep {
 public:
  using Fn = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;
  RecordedStep(Fn fn, RecordOptions options);
  ~RecordedStep();
  std::vector<Tensor> operator()(const std::vector<Tensor>& in, Loc loc = Loc::current());
  const RecordStats& stats() const;
  // Part of the signature beside the arguments' metadata, e.g. train or eval mode.
  void set_mode(uint64_t mode);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// record([&](const Tensor& x, const Tensor& y) { ...; return loss; }): called like the function itself. The function
// takes tensors and returns a Tensor or a std::vector<Tensor>.
template <class F>
auto record(F fn, RecordOptions options = {}) {
  struct Callable {
    std::shared_ptr<RecordedStep> step;
    template <class... In>
    auto operator()(const In&... in) const {
      using Result = std::invoke_result_t<F, decltype(static_cast<const Tensor&>(in))...>;
      std::vector<Tensor> out = (*step)({static_cast<const Tensor&>(in)...});
      if constexpr (std::is_same_v<std::decay_t<Result>, Tensor>) return std::move(out[0]);
      else return out;
    }
    const RecordStats& stats() const { return step->stats(); }
  };
  constexpr auto call = [](F& f, const std::vector<Tensor>& in) -> std::vector<Tensor> {
    const auto as_vector = [](auto&& r) -> std::vector<Tensor> {
      if constexpr (std::is_same_v<std::decay_t<decltype(r)>, Tensor>) return {std::forward<decltype(r)>(r)};
      else return std::forward<decltype(r)>(r);
    };
    if constexpr (std::is_invocable_v<F&, const Tensor&, const Tensor&, const Tensor&, const Tensor&>) return as_vector(f(in[0], in[1], in[2], in[3]));
    else if constexpr (std::is_invocable_v<F&, const Tensor&, const Tensor&, const Tensor&>) return as_vector(f(in[0], in[1], in[2]));
    else if constexpr (std::is_invocable_v<F&, const Tensor&, const Tensor&>) return as_vector(f(in[0], in[1]));
    else if constexpr (std::is_invocable_v<F&, const Tensor&>) return as_vector(f(in[0]));
    else return as_vector(f());
  };
  auto held = std::make_shared<F>(std::move(fn));
  return Callable{std::make_shared<RecordedStep>([held, call](const std::vector<Tensor>& in) { return call(*held, in); }, options)};
}

}  // namespace flame
