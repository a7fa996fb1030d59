// A norm's backward that writes the sum of its input's gradients: bit for bit what the engine's own sums give (AnomalyMode
// makes those), no launch for the sum, and nothing that a hook, a second pass, another thread or a checkpoint could tell.
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "flame/flame.h"
#include "tests/emulator/emulated_device.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;
using Tensors = std::vector<Tensor>;
using Bytes = std::vector<std::vector<unsigned char>>;
using Fn = std::function<Tensor(const Tensors&)>;

Tensor noise(const Shape& s, uint64_t seed, DType t = DType::f32) {
  Generator g(seed);
  Tensor x = randn(s, {.dtype = t, .generator = &g});
  x.data();
  return x;
}
// Of a residual stream, f(norm(x)) an island.
Tensor block(const Tensor& x, const Tensor& w = {}, const Tensor& b = {}) {
  return x + tanh(layer_norm(x, {x.size(-1)}, w, b)) * 0.5;
}
Bytes all_bytes(const Tensors& list) {
  Bytes out;
  out.reserve(list.size());
  for (const Tensor& t : list) out.push_back(bytes(t));
  return out;
}
// The gradients of fn's inputs by grad, then as leaves hold them after two passes over one graph, which add up.
Bytes gradients(const Fn& fn, const Tensors& inputs) {
  Tensors in;
  in.reserve(inputs.size());
  for (const Tensor& x : inputs) in.push_back(x.detach().requires_grad_());
  const Tensor y = fn(in), g = noise(y.shape(), 9, y.dtype()).to(y.device());
  g.data();
  Bytes out = all_bytes(grad({y}, in, {.grad_outputs = {g}, .retain_graph = true}));
  backward(y, {.gradient = g, .retain_graph = true});
  backward(y, {.gradient = g});
  for (const Tensor& x : in) out.push_back(bytes(x.grad()));
  return out;
}
Bytes unfused(const Fn& fn, const Tensors& inputs) {
  const AnomalyMode off;
  return gradients(fn, inputs);
}
template <class F>
uint64_t launches_of(const F& fn) {
  const uint64_t before = stats().launches;
  fn();
  return stats().launches - before;
}

const std::map<std::string, Fn> streams{
    {"a leaf", [](const Tensors& i) { return block(i[0], i[1], i[2]); }},
    {"an inner tensor", [](const Tensors& i) { return block(i[0] * 1.5, i[1], i[2]); }},
    {"three blocks", [](const Tensors& i) { return block(block(block(i[0] * i[1]), i[1]), i[1], i[2]); }},
    {"used three times",
     [](const Tensors& i) {
       const Tensor x = exp(i[0] * 0.1), n = layer_norm(x, {x.size(-1)}, i[1]);
       return x + tanh(n) + sin(layer_norm(x, {x.size(-1)}, {}, i[2])) * x;
     }},
    {"in checkpoints",
     [](const Tensors& i) {
       const auto part = [](const Tensor& x, const Tensor& w, const Tensor& b) { return block(x * 1.25, w, b); };
       return checkpoint(part, checkpoint(part, i[0], i[1], i[2]), i[2], i[1]);
     }},
    {"groups of channels", [](const Tensors& i) { return i[0] + cos(group_norm(i[0], 2, i[1], i[2])); }},
    {"a hook that sees and changes the sum",
     [](const Tensors& i) {
       const Tensor x = i[0] * 1.5;
       x.register_hook([](const Tensor& g) { return g * 0.5; });
       return block(x, i[1], i[2]);
     }},
};

TEST(GradientSink, SumsHaveTheEnginesBits) {
  for (const DType t : {DType::f32, DType::f64, DType::bf16})
    for (const auto& [what, fn] : streams) {
      const Tensors in{noise({33, 40}, 1, t), noise({40}, 2, t), noise({40}, 3, t)};
      EXPECT_EQ(gradients(fn, in), unfused(fn, in)) << what << ", " << name_of(t);
    }
  const Fn twice = [](const Tensors& i) { return i[0] + layer_norm(i[0], {40}, i[0], i[1]); };  // one edge, two inputs
  const Tensors in{noise({40}, 1), noise({40}, 2)};
  EXPECT_EQ(gradients(twice, in), unfused(twice, in));
}

TEST(GradientSink, ASumIsNoLaunchOfItsOwn) {
  const Tensor x = noise({33, 40}, 1).requires_grad_(), g = noise({33, 40}, 2), w = noise({40}, 3);
  const auto backward_launches = [&](const Tensor& y, const Tensor& g) {
    y.data();
    return launches_of([&] { grad({y}, {x}, {.grad_outputs = {g}})[0].data(); });
  };
  const auto branch = [&] { return tanh(layer_norm(x, {40}, w)); };
  const Tensor turned = noise({40, 33}, 2).transpose(0, 1);
  EXPECT_EQ(backward_launches(branch(), g), 2u);  // the island of tanh, the norm
  EXPECT_EQ(backward_launches(x + branch(), g), 2u);
  EXPECT_EQ(backward_launches(x + branch(), turned), backward_launches(branch(), turned) + 1);  // lies otherwise
}

TEST(GradientSink, WhatArrivedStaysAsItIs) {
  const Tensor x = noise({33, 40}, 1).requires_grad_(), g = noise({33, 40}, 2), before = g + 0.0;
  before.data();
  Tensor seen;
  const Tensor y = block(x);
  y.register_hook([&](const Tensor& g) {
    seen = g;
    return Tensor();
  });
  backward(y, {.gradient = g});
  EXPECT_EQ(bytes(g), bytes(before));
  EXPECT_EQ(bytes(seen), bytes(before));
}

TEST(GradientSink, SecondDerivatives) {
  const TensorFn fn = [](const Tensors& in) { return Tensors{block(block(in[0] * 2.0, in[1]), in[1])}; };
  gradgradcheck(fn, {noise({2, 4}, 1, DType::f64), noise({4}, 2, DType::f64)});
}

TEST(GradientSink, ThreadsAndPassesInsidePasses) {
  const Tensors in{noise({33, 40}, 1), noise({40}, 2), noise({40}, 3)};
  const Tensor x = in[0].detach().requires_grad_(), h = x * 1.5;
  const Tensor y = block(h, in[1], in[2]) * 2.0, g = noise({33, 40}, 4);
  const auto pass = [&] { return bytes(grad({y}, {x}, {.grad_outputs = {g}, .retain_graph = true})[0]); };
  const std::vector<unsigned char> want = pass();
  std::vector<std::vector<unsigned char>> got(4);
  std::vector<std::thread> threads;
  threads.reserve(got.size());
  for (auto& out : got) threads.emplace_back([&] { out = pass(); });
  for (std::thread& t : threads) t.join();
  for (const auto& out : got) EXPECT_EQ(out, want);
  // A pass over the same nodes begins while the sum at `h` waits for its second part.
  std::vector<unsigned char> inner;
  bool once = true;
  const Tensor z = layer_norm(h, {40}), u = h + z * 0.5;
  z.register_hook([&](const Tensor&) {
    if (std::exchange(once, false)) inner = bytes(grad({u}, {x}, {.grad_outputs = {g}, .retain_graph = true})[0]);
    return Tensor();
  });
  const auto outer = bytes(grad({u}, {x}, {.grad_outputs = {g}, .retain_graph = true})[0]);
  EXPECT_EQ(inner, outer);
  const AnomalyMode off;
  EXPECT_EQ(outer, bytes(grad({u}, {x}, {.grad_outputs = {g}})[0]));
}

TEST(GradientSink, RecordedStepsAreEagerOnes) {
  const Tensor x = noise({33, 40}, 1);
  const auto run = [&](bool recorded) {
    const Parameter w(noise({40}, 2)), start(noise({40}, 3));
    optim::SGD opt({w, start}, {.lr = 0.1});
    const auto body = [&](const Tensor& x) {
      const Tensor loss = mean(square(block(block(x * start.tensor(), w.tensor()), w.tensor())));
      backward(loss);
      opt.step();
      return loss;
    };
    auto step = record(body);
    for (int i = 0; i < 5; ++i) recorded ? step(x).data() : body(x).data();
    return all_bytes({w.tensor(), start.tensor()});
  };
  EXPECT_EQ(run(true), run(false));
}

// A table that is read by index and multiplied with: the product's gradient is there when the rows' is added up.
void expect_tied_tables(Device& d, bool few) {
  const Tensor index = Tensor::from(std::vector<int64_t>{3, 0, 3, 9, 3, 0}, {6}).to(d);
  const Fn tied = [&](const Tensors& i) { return linear(tanh(embedding(i[0], index)) * 0.5, i[0]); };
  for (const DType t : {DType::f32, DType::bf16, DType::f64})
    for (const int64_t width : {128, 6}) {  // added in the sums' launch, or by one behind it
      if (few && (t != DType::f32 || width == 6)) continue;
      const Tensors in{noise({11, width}, 1, t).to(d)};
      EXPECT_EQ(gradients(tied, in), unfused(tied, in)) << name_of(t) << " " << width;
    }
}
TEST(CudaGradientSink, TiedTables) {
  FLAME_NEEDS_GPU(d);
  expect_tied_tables(d, false);
}
TEST(EmulatedGradientSink, TiedTables) {
  FLAME_NEEDS_EMULATOR(d);
  expect_tied_tables(d, !full());
}

// Every form of the kernel, its sums bit for bit the engine's. `few`: short rows, and few of them, of float32.
void expect_the_engines_bits(Device& d, bool few) {
  const auto expect_equal = [&](const std::string& what, const Fn& fn, const Tensors& in) {
    Tensors there;
    there.reserve(in.size());
    for (const Tensor& x : in) there.push_back(x.to(d));
    EXPECT_EQ(gradients(fn, there), unfused(fn, there)) << what;
  };
  const Fn layer = [](const Tensors& i) { return block(i[0] * 1.5, i[1], i[2]); };
  const Fn root = [](const Tensors& i) { return i[0] + tanh(rms_norm(i[0], {i[0].size(-1)}, i[1], 1e-5)); };
  const Fn channels = [](const Tensors& i) { return i[0] + tanh(batch_norm(i[0], {}, {}, i[1], i[2])); };
  const std::vector<DType> types = few ? std::vector{DType::f32} : std::vector{DType::f32, DType::bf16, DType::f64};
  for (const DType t : types) {
    const auto inputs = [&](const Shape& s, int64_t weights) {
      return Tensors{noise(s, 1, t), noise({weights}, 2, t), noise({weights}, 3, t)};
    };
    for (const int64_t n : {33, 768, 2048, 16384}) {
      if (few && n > 1000) continue;
      const int64_t rows = few ? 11 : n < 100 ? 3000 : n > 10000 ? 300 : 1200;  // more than a grid has at a time
      expect_equal("layer norm of " + std::to_string(n), layer, inputs({rows, n}, n));
    }
    expect_equal("rms norm", root, {noise({few ? 9 : 300, 768}, 1, t), noise({768}, 2, t)});
    expect_equal("batch norm", channels, inputs({4, 3, 40}, 3));
    expect_equal("batch norm in chunks", channels, inputs({5, 2, 4000}, 2));
    if (!few) expect_equal("batch norm, a channel a block", channels, inputs({5, 100, 4000}, 100));
  }
  const Fn mixed = [](const Tensors& i) {  // the gradient of the norm arrives in 16 bits
    const AutocastScope amp{DType::bf16};
    return i[0] + linear(layer_norm(i[0], {64}, i[1], i[2]), i[3]);
  };
  expect_equal("autocast", mixed, {noise({20, 64}, 1), noise({64}, 2), noise({64}, 3), noise({64, 64}, 4)});
}
TEST(CudaGradientSink, SumsHaveTheEnginesBits) {
  FLAME_NEEDS_GPU(d);
  expect_the_engines_bits(d, false);
}
// Rows in turn, several to a block; with FLAME_FULL more of them than the grid has at a time, and what the GPU's test does.
TEST(EmulatedGradientSink, AgreesWithTheCpu) {
  Device& d = emulated::emulated_device();
  if (full()) expect_the_engines_bits(d, true);
  const int64_t n = full() ? 768 : 600, rows = full() ? 2300 : 13;
  const auto all = [&](Device& on) {
    Tensors in{noise({rows, n}, 1).to(on), noise({n}, 2).to(on), noise({n}, 3).to(on)};
    for (Tensor& x : in) x.requires_grad_();
    return grad({block(in[0], in[1], in[2])}, in, {.grad_outputs = {noise({rows, n}, 4).to(on)}});
  };
  const Tensors got = all(d), want = all(cpu());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_LT(error_of(got[i], want[i]).units, 64) << i;
}

}  // namespace
}  // namespace flame
