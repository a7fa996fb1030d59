// record(fn): runs a step eagerly a couple of times, then replays it from a flat list of launches over planned memory.
// Every call is exactly one step. A miss (other shapes, another mode) runs eagerly and is counted with its reason.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "flame/tensor/tensor.h"

namespace flame {

struct RecordOptions {
  int warmup = 2;          // eager calls per signature before the recording is used; at least 2, since two must agree
  int verify = 0;          // every n-th replay is run eagerly as well and compared bit for bit; 0: never
  int max_recordings = 8;  // one a signature; the oldest leaves
};

struct RecordStats {
  uint64_t calls = 0, replays = 0, recordings = 0, misses = 0;
  size_t arena_bytes = 0;  // of the last recording
  size_t launches = 0;     // of the last recording
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

// What record() returns: called like the function itself.
template <class F>
class Recorded {
 public:
  Recorded(F fn, RecordOptions options)
      : step_(std::make_shared<RecordedStep>(
            [fn = std::move(fn)](const std::vector<Tensor>& in) mutable { return call(fn, in); }, options)) {}
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

  template <size_t... I>
  static std::vector<Tensor> spread(F& fn, const std::vector<Tensor>& in, std::index_sequence<I...>) {
    if constexpr (std::is_same_v<std::decay_t<decltype(fn(in[I]...))>, Tensor>) return {fn(in[I]...)};
    else return fn(in[I]...);
  }
  // The number of arguments that fn takes, at most six.
  template <size_t N = 0>
  static std::vector<Tensor> call(F& fn, const std::vector<Tensor>& in) {
    static_assert(N <= 6,
                  "record: the function must take up to six tensors and return a Tensor or a std::vector<Tensor>");
    constexpr bool fits = []<size_t... I>(std::index_sequence<I...>) {
      return std::is_invocable_v<F&, decltype((void(I), std::declval<const Tensor&>()))...>;
    }(std::make_index_sequence<N>{});
    if constexpr (fits) return spread(fn, in, std::make_index_sequence<N>{});
    else return call<N + 1>(fn, in);
  }
};

// record([&](const Tensor& x, const Tensor& y) { ...; return loss; }): the function takes up to six tensors and returns
// a Tensor or a std::vector<Tensor>.
template <class F>
Recorded<F> record(F fn, RecordOptions options = {}) {
  return Recorded<F>(std::move(fn), options);
}

}  // namespace flame
