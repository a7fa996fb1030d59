// A small network with everything that carries state from step to step, and what tells two of them apart.
#pragma once
#include <flame/flame.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/compare.h"

namespace flame::test {

inline Tensor batch(const Shape& s, int step, float scale = 1.0f / 32) {
  std::vector<float> v(static_cast<size_t>(numel(s)));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>((i * 37 + static_cast<size_t>(step) * 101) % 127) * scale - 1.5f;
  Tensor x = Tensor::from(v, s);
  return x;
}
inline Tensor classes(int64_t n, int64_t count, int step) {
  std::vector<int64_t> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int64_t>(i * 5 + static_cast<size_t>(step) * 3) % count;
  return Tensor::from(v, {n});
}

// Convolution, batch norm, dropout, clipping, AdamW with a schedule, averages, and in float16 a scaled loss: everything that
// carries state from step to step.
struct Net : nn::Module {
  nn::Conv2d conv{*this, "conv", {.in = 2, .out = 6, .kernel = 3, .padding = 1}};
  nn::BatchNorm2d norm{*this, "norm", {.channels = 6}};
  nn::Dropout drop{*this, "drop", {.p = 0.3}};
  nn::Linear head{*this, "head", {.in = 6 * 4 * 4, .out = 5}};
  Tensor forward(const Tensor& x) { return head(drop(max_pool2d(relu(norm(conv(x))), {.kernel = 2}).flatten(1))); }
};
struct Trainer {
  Generator generator{11};
  GeneratorScope scope{generator};  // weights and masks
  Net net;
  optim::AdamW opt{net.parameters(), {.lr = 0.01}};
  optim::EMA average{net, {.decay = 0.9, .warmup = true}};
  optim::GradScaler scaler{{.growth_interval = 10}};
  const bool half;
  bool clips = true;
  explicit Trainer(bool half = false) : half(half) {
    opt.set_schedule(optim::OneCycle{.max_lr = 0.02, .total_steps = 220});
  }

  std::vector<Tensor> step(const Tensor& x, const Tensor& y) {
    if (half) return step_in_half(x, y);
    const Tensor loss = cross_entropy(net.forward(x), y);
    backward(loss);
    const Tensor norm = clips ? optim::clip_grad_norm(net.parameters(), 0.5) : loss;
    opt.step();
    average.update();
    return {loss, norm};
  }
  std::vector<Tensor> step_in_half(const Tensor& x, const Tensor& y) {
    const Tensor loss = [&] {
      const AutocastScope scope(DType::f16);
      return cross_entropy(net.forward(x), y);
    }();
    backward(scaler.scale(loss));
    opt.step({.max_norm = 0.5, .scaler = &scaler});
    scaler.update();
    average.update();
    return {loss, scaler.factor() + 0.0};
  }
  // Everything that a next step depends on.
  std::vector<std::pair<std::string, Tensor>> state() const {
    std::vector<std::pair<std::string, Tensor>> all;
    for (const auto& [name, s] : net.state_dict()) all.emplace_back(name, s.tensor());
    for (const auto& [name, t] : opt.state_dict()) all.emplace_back("optimizer " + name, t);
    for (const auto& [name, t] : average.state_dict()) all.emplace_back("average " + name, t);
    for (const auto& [name, t] : scaler.state_dict()) all.emplace_back("scaler " + name, t);
    const GeneratorState g = generator.state();
    all.emplace_back(
        "generator",
        Tensor::from(std::vector<int64_t>{static_cast<int64_t>(g.seed), static_cast<int64_t>(g.offset)}, {2}));
    return all;
  }
};
inline void expect_equal_state(const Trainer& a, const Trainer& b, const std::string& when) {
  const auto x = a.state(), y = b.state();
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(x[i].first, y[i].first);
    ASSERT_EQ(difference(x[i].second, y[i].second), "") << x[i].first << " " << when;
  }
}

// Each trainer's scope makes its generator the thread's default one, so eager and recorded runs take turns by scope.
template <class F>
void alternate(Trainer& t, F&& fn) {
  const GeneratorScope scope(t.generator);
  fn();
}

// Launches as small as these are over before a second thread is awake.
struct OneThread {
  const int before = num_threads();
  OneThread() { set_num_threads(1); }
  ~OneThread() { set_num_threads(before); }
};

}  // namespace flame::test
