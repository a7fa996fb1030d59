// Hooks on saved tensors: every kind of node goes through them, and what comes back is checked.
#include "flame/flame.h"

#include <gtest/gtest.h>

#include "flame/tensor/op.h"
#include "tests/support/chosen.h"
#include "tests/support/compare.h"
#include "tests/support/error.h"
#include "tests/trace_device.h"

namespace flame {
namespace {

using namespace test;
using Tensors = std::vector<Tensor>;

struct Counts {
  int packed = 0, unpacked = 0;
};
// Keeps the numbers on the host and nothing on the device.
SavedTensorHooks offload(Counts& c) {
  struct Host {
    std::vector<unsigned char> data;
    DType dtype;
    Shape shape;
  };
  return {[&c](const Tensor& t) {
            EXPECT_FALSE(t.requires_grad());
            EXPECT_FALSE(grad_enabled());
            ++c.packed;
            return std::any(Host{bytes(t), t.dtype(), t.shape()});
          },
          [&c](const std::any& a) {
            EXPECT_FALSE(grad_enabled());
            ++c.unpacked;
            const Host& h = std::any_cast<const Host&>(a);
            return Tensor::from_host(h.data.data(), static_cast<size_t>(numel(h.shape)), h.dtype, h.shape);
          }};
}

Tensors gradients_of(const SampleCase& c, bool again) {
  Tensors in = c.inputs, leaves, outputs, seeds;
  for (size_t i = 0; i < in.size(); ++i)
    if (in[i].defined() && is_float(in[i].dtype()) && (c.wrt < 0 || i < static_cast<size_t>(c.wrt)))
      leaves.push_back(in[i].requires_grad_());
  for (const Tensor& y : c.fn(in))
    if (y.requires_grad()) {
      outputs.push_back(y);
      seeds.push_back(full(y.shape(), 0.5, y.dtype()));
    }
  if (outputs.empty()) return {};
  Tensors first = grad(outputs, leaves, {.grad_outputs = seeds, .create_graph = again, .allow_unused = true});
  if (!again) return first;
  Tensor total;
  for (const Tensor& g : first)
    if (g.defined() && g.requires_grad()) total = total.defined() ? total + sum(g * g) : sum(g * g);
  return total.defined() ? grad({total}, leaves, {.allow_unused = true}) : Tensors{};
}

// Every op: gradients of first and second order through offloaded tensors are the plain ones.
TEST(SavedTensors, OffloadedOnesGiveTheSameGradientsForEveryOp) {
  Counts counts;
  int ops = 0;
  for (const OpEntry& e : Registry::global().entries()) {
    if (!e.differentiable || !chosen(e.name)) continue;
    ++ops;
    const SampleCase c = e.samples(DType::f64)[0];
    for (const bool again : {false, true}) {
      const Tensors want = gradients_of(c, again);
      const SavedTensorHooksScope scope(offload(counts));
      const Tensors got = gradients_of(c, again);
      ASSERT_EQ(got.size(), want.size()) << e.name;
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_EQ(got[i].defined(), want[i].defined()) << e.name;
        if (!got[i].defined()) continue;
        // Offloaded tensors come back contiguous, so a sum may be taken in another order.
        const Deviation d = error_of(got[i], want[i]);
        EXPECT_LE(d.units, 16) << e.name << (again ? ", second order: " : ": ") << d.text;
      }
    }
  }
  std::printf("%d ops, %d tensors packed, %d unpacked\n", ops, counts.packed, counts.unpacked);
  EXPECT_GT(ops, 0);
  if (all_ops()) {
    EXPECT_GT(counts.packed, ops);
    EXPECT_GT(counts.unpacked, ops / 2);
  }
}

TEST(SavedTensors, FreeTheDevicesMemory) {
  const Tensor x = full({256, 256}, 0.5).contiguous();
  x.data();
  const size_t before = memory_stats().allocated;
  constexpr size_t one = 256 * 256 * sizeof(float);
  Tensor leaf = x.detach().requires_grad_(), y;
  Counts counts;
  {
    const SavedTensorHooksScope scope(offload(counts));
    y = leaf;
    for (int i = 0; i < 8; ++i) y = matmul(tanh(y), x);
  }
  y.data();
  EXPECT_LE(memory_stats().allocated - before, one + 4096);
  EXPECT_EQ(counts.packed, 8 * 3);  // the result of tanh, both inputs of matmul
  backward(sum(y));
  Tensor plain = x.detach().requires_grad_();
  y = plain;
  for (int i = 0; i < 8; ++i) y = matmul(tanh(y), x);
  y.data();
  EXPECT_GE(memory_stats().allocated - before, 8 * one);
  backward(sum(y));
  EXPECT_EQ(difference(leaf.grad(), plain.grad()), "");
}

TEST(SavedTensors, PackedOnceAndUnpackedOnceABackward) {
  Counts counts;
  Tensor x = full({3, 3}, 0.5).requires_grad_(), w = full({3, 3}, 0.25).requires_grad_(), y;
  {
    const SavedTensorHooksScope scope(offload(counts));
    y = sum(matmul(x, w));
  }
  EXPECT_EQ(counts.packed, 2);
  EXPECT_EQ(counts.unpacked, 0);
  backward(y, {.retain_graph = true});
  EXPECT_EQ(counts.unpacked, 2);
  backward(y);
  EXPECT_EQ(counts.unpacked, 4);
  EXPECT_THROW(backward(y), AutogradError);
  EXPECT_EQ(counts.unpacked, 4);
}

// Of a linear layer: x for the weight's gradient, the weight for that of x.
TEST(SavedTensors, OnlyWhatAGradientNeedsIsUnpacked) {
  for (const bool to_x : {false, true})
    for (const bool to_weight : {false, true}) {
      Counts counts;
      Tensor x = full({4, 3}, 0.5), w = full({2, 3}, 0.25), b = zeros({2}).requires_grad_();
      if (to_x) x.requires_grad_();
      if (to_weight) w.requires_grad_();
      const SavedTensorHooksScope scope(offload(counts));
      const Tensor y = linear(x, w, b);
      EXPECT_EQ(counts.packed, 2);
      grad({y}, {b}, {.grad_outputs = {full({4, 2}, 1)}, .retain_graph = true});
      EXPECT_EQ(counts.unpacked, 0);
      backward(sum(y));
      EXPECT_EQ(counts.unpacked, int{to_x} + int{to_weight}) << to_x << to_weight;
    }
}

TEST(SavedTensors, TheInnermostScopeCountsAlone) {
  Counts outer, inner;
  Tensor x = full({3}, 0.5).requires_grad_();
  const SavedTensorHooksScope a(offload(outer));
  Tensor y = exp(x);
  {
    const SavedTensorHooksScope b(offload(inner));
    y = sin(y);
  }
  y = cos(y);
  EXPECT_EQ(outer.packed, 2);
  EXPECT_EQ(inner.packed, 1);
  no_grad([&] { return exp(x); });
  EXPECT_EQ(outer.packed, 2);
}

TEST(SavedTensors, MayBeCompressed) {
  // Kept as float16: the gradient is the one of the rounded numbers.
  const SavedTensorHooks half{[](const Tensor& t) { return std::any(t.to(DType::f16)); },
                              [](const std::any& a) { return std::any_cast<const Tensor&>(a).to(DType::f32); }};
  Tensor x = linspace(0.1, 1, 7).requires_grad_();
  const Tensor y = [&] {
    const SavedTensorHooksScope scope(half);
    return sum(x * x * x);
  }();
  backward(y);
  const Tensor h = x.detach().to(DType::f16).to(DType::f32), square = (x * x).detach().to(DType::f16).to(DType::f32);
  EXPECT_EQ(difference(x.grad(), square + (h * h + h * h)), "");
}

TEST(SavedTensors, WhatComesBackIsChecked) {
  Tensor x = full({3}, 0.5).requires_grad_();
  const auto message = [&](const std::function<Tensor()>& give) {
    const SavedTensorHooksScope scope(
        {[](const Tensor&) { return std::any(); }, [&](const std::any&) { return give(); }});
    const Tensor y = sum(exp(x));
    return message_of<AutogradError>([&] { backward(y); });
  };
  for (const auto& [give, part] : std::vector<std::pair<std::function<Tensor()>, std::string>>{
           {[] { return Tensor(); }, "undefined"},
           {[] { return full({4}, 1); }, "[4]"},
           {[] { return full({3}, 1, DType::f64); }, "float64"},
           {[] { return Tensor::empty({3}, DType::f32, trace_device()); }, "trace"}}) {
    const std::string m = message(give);
    for (const std::string& p : {part, std::string("exp"), std::string("saved_test.cpp"), std::string("unpack")})
      EXPECT_NE(m.find(p), std::string::npos) << p << " in " << m;
  }
  EXPECT_FALSE(x.grad().defined());
  EXPECT_THROW(SavedTensorHooksScope({{}, [](const std::any&) { return Tensor(); }}), ValueError);
  EXPECT_THROW(SavedTensorHooksScope({[](const Tensor&) { return std::any(); }, {}}), ValueError);
  EXPECT_EQ(SavedTensorHooksScope::current(), nullptr);
}

TEST(SavedTensors, OfACustomFunction) {
  Counts counts;
  const Function cube{.forward =
                          [](FunctionContext& c, const Tensors& in) {
                            c.saved = {in[0]};
                            return Tensors{in[0] * in[0] * in[0]};
                          },
                      .backward = [](const FunctionContext& c,
                                     const Tensors& g) { return Tensors{g[0] * 3.0 * c.saved[0] * c.saved[0]}; },
                      .name = "cube"};
  Tensor x = full({2}, 2).requires_grad_();
  const SavedTensorHooksScope scope(offload(counts));
  backward(sum(apply(cube, {x})[0]));
  EXPECT_EQ(counts.packed, 1);
  EXPECT_EQ(numbers(x.grad()), (std::vector<double>{12, 12}));
}

// retain_graph: what is freed, and when.
TEST(RetainGraph, KeepsWhatABackwardNeeds) {
  Tensor x = full({2}, 2).requires_grad_();
  const Tensor y = sum(x * exp(x));
  const Tensor first = grad({y}, {x}, {.retain_graph = true})[0];
  EXPECT_EQ(difference(grad({y}, {x}, {.retain_graph = true})[0], first), "");
  const Tensor graph = grad({y}, {x}, {.create_graph = true})[0];  // implies it
  EXPECT_TRUE(graph.requires_grad());
  backward(y);
  EXPECT_EQ(difference(x.grad(), first), "");
  const std::string m = message_of<AutogradError>([&] { backward(y); });
  EXPECT_NE(m.find("retain_graph"), std::string::npos) << m;
  EXPECT_NE(m.find("saved_test.cpp"), std::string::npos) << m;
  // Nodes that saved nothing can be walked again.
  Tensor z = full({2}, 2).requires_grad_();
  const Tensor s = sum(z + z);
  backward(s);
  EXPECT_NO_THROW(backward(s));
  EXPECT_EQ(numbers(z.grad()), (std::vector<double>{4, 4}));
}

TEST(RetainGraph, FreesTheSavedTensorsOfANodeOnceItHasRun) {
  const Tensor w = full({128, 128}, 0.5).contiguous();
  w.data();
  const size_t before = memory_stats().allocated;
  Tensor x = w.detach().requires_grad_(), y = x;
  for (int i = 0; i < 6; ++i) y = matmul(tanh(y), w);
  y = sum(y);
  y.data();
  constexpr size_t one = 128 * 128 * sizeof(float);
  EXPECT_GE(memory_stats().allocated - before, 6 * one);
  const Tensor kept = grad({y}, {x}, {.retain_graph = true})[0];
  kept.data();
  EXPECT_GE(memory_stats().allocated - before, 7 * one);
  const Tensor freed = grad({y}, {x})[0];
  freed.data();
  EXPECT_LE(memory_stats().allocated - before, 2 * one + 4096);  // the two gradients; y itself still lives
  EXPECT_EQ(difference(kept, freed), "");
}

}  // namespace
}  // namespace flame
