// record(fn): runs a step eagerly a couple of times, then replays it over planned memory: on a GPU as one CUDA graph, else as a
// list of launches. Every call is exactly one step; one that cannot be a replay runs eagerly and is counted with its reason.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "flame/tensor/tensor.h"
#include "flame/train/batches.h"

namespace flame {

struct RecordOptions {
  int warmup = 2;          // eager calls per signature before the recording is used; at least 2, since two must agree
  int verify = 0;          // every n-th replay is run eagerly as well and compared bit for bit; 0: never
  int max_recordings = 8;  // one a signature; the oldest leaves
  // Launches of a GPU's graph that do not need each other run beside each other, in so many lanes; 0: two. Steps that take
  // more than 256 MiB have one.
  int lanes = 0;
};

struct RecordStats {
  uint64_t calls = 0, replays = 0, recordings = 0, misses = 0;
  size_t arena_bytes = 0;  // of the last recording
  size_t launches = 0;     // of the last recording
  size_t lanes = 0;        // of the last recording's graph; 0: its launches are made one by one
  std::string last_miss;   // why the last call that could have been a replay was not
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

// What calls a step: a function of up to six tensors that gives a Tensor or a std::vector<Tensor>.
namespace step_call {
template <class F, size_t... I>
constexpr bool takes(std::index_sequence<I...>) {
  return std::is_invocable_v<F&, decltype((void(I), std::declval<const Tensor&>()))...>;
}
// How many tensors F takes.
template <class F, size_t N = 0>
constexpr size_t count() {
  static_assert(N <= 6,
                "record: the function must take up to six tensors and return a Tensor or a std::vector<Tensor>");
  if constexpr (takes<F>(std::make_index_sequence<N>{})) return N;
  else return count<F, N + 1>();
}
template <class F, size_t... I>
decltype(auto) spread(F& fn, const std::vector<Tensor>& in, std::index_sequence<I...>) {
  return fn(in[I]...);
}
template <class F>
decltype(auto) invoke(F& fn, const std::vector<Tensor>& in) {
  return spread(fn, in, std::make_index_sequence<count<F>()>{});
}
template <class F>
inline constexpr bool gives_one =
    std::is_same_v<std::decay_t<decltype(invoke(std::declval<F&>(), std::declval<const std::vector<Tensor>&>()))>,
                   Tensor>;
template <class F>
std::vector<Tensor> call(F& fn, const std::vector<Tensor>& in) {
  if constexpr (gives_one<F>) return {invoke(fn, in)};
  else return invoke(fn, in);
}
}  // namespace step_call

// What record() returns: called like the function itself.
template <class F>
class Recorded {
 public:
  Recorded(F fn, RecordOptions options)
      : step_(std::make_shared<RecordedStep>(
            [fn = std::move(fn)](const std::vector<Tensor>& in) mutable { return step_call::call(fn, in); }, options)) {
  }
  template <class... In>
  auto operator()(const In&... in) const {
    std::vector<Tensor> out = (*step_)({static_cast<Tensor>(in)...});
    if constexpr (std::is_same_v<std::decay_t<std::invoke_result_t<F&, const In&...>>, Tensor>)
      return std::move(out[0]);
    else return out;
  }
  const RecordStats& stats() const { return step_->stats(); }
  RecordedStep& step() const { return *step_; }

 private:
  std::shared_ptr<RecordedStep> step_;
};

// record([&](const Tensor& x, const Tensor& y) { ...; return loss; }): the function takes up to six tensors and returns
// a Tensor or a std::vector<Tensor>.
template <class F>
Recorded<F> record(F fn, RecordOptions options = {}) {
  return Recorded<F>(std::move(fn), options);
}

namespace step_call {
void check_repeat(int steps, size_t takes, size_t given, Loc loc);  // ValueError
std::vector<Tensor> stacked(const std::vector<std::vector<Tensor>>& steps);
}  // namespace step_call

// repeat(k, fn, batches): something to call without arguments. Each call makes k steps, fn(x, y, ...) of the next batch each,
// as one recorded step, on a GPU by one launch: the bits of k calls of fn. It gives fn's results with the steps as a new
// first axis. `warmup` and `verify` count calls. ValueError unless k is 1 or more and fn takes as many tensors as a batch has.
template <class F>
auto repeat(int steps, F fn, DeviceBatches batches, RecordOptions options = {}, Loc loc = Loc::current()) {
  step_call::check_repeat(steps, step_call::count<F>(), batches.tensors(), loc);
  return record(
      [steps, fn = std::move(fn), batches = std::move(batches)]() mutable {
        std::vector<std::vector<Tensor>> all;
        for (int i = 0; i < steps; ++i) all.push_back(step_call::call(fn, batches.next()));
        std::vector<Tensor> out = step_call::stacked(all);
        if constexpr (step_call::gives_one<F>) return std::move(out[0]);
        else return out;
      },
      options);
}

}  // namespace flame
