// The engine where passes meet: passes inside passes, on several threads, over parts of a graph; and rules that misbehave.
#include "flame/flame.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "flame/autograd/node.h"
#include "tests/support/compare.h"
#include "tests/support/error.h"

namespace flame {
namespace {

using namespace test;
using Numbers = std::vector<double>;
using Tensors = std::vector<Tensor>;

Tensor of(const Numbers& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); }
Tensor leaf(const Numbers& v) { return of(v).requires_grad_(); }

void expect_in(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* p : parts) EXPECT_NE(text.find(p), std::string::npos) << p << " in: " << text;
}

TEST(Engine, APassInAHookSharesALeafWithTheOuterPass) {
  const Tensor w = leaf({2});
  const Tensor q = w * w, a = w * 3.0, b = a * 5.0, c = w * 7.0;
  Numbers inner, seen;
  a.register_hook([&](const Tensor&) {
    inner.push_back(grad({q}, {w})[0].item());
    return Tensor();
  });
  w.register_hook([&](const Tensor& g) {
    seen.push_back(g.item());
    return Tensor();
  });
  EXPECT_EQ(grad({sum(b + c)}, {w})[0].item(), 22);
  EXPECT_EQ(inner, (Numbers{4}));
  EXPECT_EQ(seen, (Numbers{4, 22}));  // the inner pass, then the whole sum of the outer one
}

TEST(Engine, APassInAHookSharesInnerNodesWithTheOuterPass) {
  const Tensor w = leaf({2}), x = leaf({3});
  const Tensor h = w * w, q = h * h, a = h * 3.0, b = exp(a * 0.1), c = h * 7.0;
  a.register_hook([&](const Tensor&) {
    backward(q, {.retain_graph = true});
    return Tensor();
  });
  backward(sum(b + c + x));
  EXPECT_NEAR(w.grad().item(), 4 * (7 + 0.3 * std::exp(1.2)) + 32, 1e-12);
  EXPECT_EQ(x.grad().item(), 1);
}

TEST(Engine, APassThatThrowsLeavesItsNodesUsable) {
  const Tensor w = leaf({2});
  const Tensor h = w * w, a = h * 3.0, c = h * 7.0, loss = sum(a + c);
  bool broken = true;
  a.register_hook([&](const Tensor&) -> Tensor {
    if (broken) throw std::runtime_error("a hook's own");
    return {};
  });
  EXPECT_THROW(backward(loss, {.retain_graph = true}), std::runtime_error);
  broken = false;
  backward(loss);
  EXPECT_EQ(w.grad().item(), 40);
}

// Checkpointing: the backward runs the forward again with a graph, and a pass over it that reaches the same parameter.
TEST(Engine, ABackwardMayRecomputeItsForward) {
  const Parameter w(of({0.5, -1.5}));
  const auto body = [&](const Tensor& x) { return exp(x * w.tensor()) * w.tensor(); };
  const Function checkpoint{.forward =
                                [&](FunctionContext& c, const Tensors& in) {
                                  c.saved = {in[0].detach()};
                                  return Tensors{body(in[0])};
                                },
                            .backward =
                                [&](const FunctionContext& c, const Tensors& g) {
                                  const bool before = grad_enabled();
                                  set_grad_enabled(true);
                                  Tensor x = c.saved[0];
                                  x.requires_grad_();
                                  backward(body(x), {.gradient = g[0]});
                                  set_grad_enabled(before);
                                  return Tensors{x.grad()};
                                },
                            .name = "checkpoint"};
  const auto run = [&](bool saving) {
    w.zero_grad();
    const Tensor x = leaf({1, 2});
    const Tensor y = x * w.tensor(), z = saving ? apply(checkpoint, {y})[0] : body(y);
    backward(sum(z * w.tensor()));
    Numbers all = numbers(x.grad());
    for (double v : numbers(w.grad())) all.push_back(v);
    return all;
  };
  const Numbers want = run(false), got = run(true);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-12 * std::abs(want[i])) << i;
}

TEST(Engine, ThreadsMayShareAParameter) {
  const Parameter w(of({1, 2, 3}));
  const int rounds = quick() ? 300 : 3000;
  const auto work = [&](double factor) {
    for (int i = 0; i < rounds; ++i) {
      const Tensor y = w.tensor() * of({factor, factor, factor});
      backward(sum(y + w.tensor() * w.tensor()));
    }
  };
  std::thread a(work, 1), b(work, 2);
  a.join();
  b.join();
  EXPECT_EQ(numbers(w.grad()), (Numbers{7.0 * rounds, 11.0 * rounds, 15.0 * rounds}));
}

TEST(Engine, ThreadsMayShareARetainedGraph) {
  const Parameter w(of({1, 2}));
  const Tensor h = w.tensor() * w.tensor(), y = h * 3.0;
  numbers(y);
  const int rounds = quick() ? 200 : 2000;
  const auto work = [&] {
    for (int i = 0; i < rounds; ++i) backward(y, {.gradient = of({1, 1}), .retain_graph = true});
  };
  std::thread a(work), b(work);
  a.join();
  b.join();
  EXPECT_EQ(numbers(w.grad()), (Numbers{12.0 * rounds, 24.0 * rounds}));
}

TEST(Engine, GradRunsAndFreesNoMoreThanItNeeds) {
  const Tensor w = leaf({2});
  const Tensor y = w * w;
  const Tensor g = grad({sum(y * 3.0)}, {y})[0];
  backward(y, {.gradient = g});
  EXPECT_EQ(w.grad().item(), 12);

  const Tensor a = leaf({2}), b = leaf({3});
  const Tensor side = b * b;
  int ran = 0;
  side.register_hook([&](const Tensor&) { return ++ran, Tensor(); });
  EXPECT_EQ(grad({sum(a * side)}, {a})[0].item(), 9);
  EXPECT_EQ(ran, 0);
  backward(sum(side));  // not freed
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(b.grad().item(), 6);
}

TEST(Engine, GradRunsAWantedNodeThatLeadsToAnotherOne) {
  const Tensor x = leaf({2}), other = leaf({5});
  const Tensor y = x * x * other, z = y * y;
  const Tensors g = grad({z}, {y, x, y});
  EXPECT_EQ(g[0].item(), 40);
  EXPECT_EQ(g[1].item(), 800);
  EXPECT_EQ(g[2].item(), 40);
  EXPECT_FALSE(x.grad().defined());
  EXPECT_FALSE(other.grad().defined());
}

TEST(Engine, GradMarksALongChainWithoutRecursion) {
  const int n = quick() ? 20000 : 300000;
  const Tensor x = leaf({1});
  Tensor y = x;
  for (int i = 0; i < n; ++i) y = i % 2 ? y * 1.0 : y + 1.0;
  EXPECT_EQ(grad({y}, {x})[0].item(), 1);
}

TEST(Engine, HooksMayRegisterHooks) {
  const Tensor x = leaf({1});
  const Tensor y = x * 2.0;
  int first = 0, later = 0;
  y.register_hook([&, big = std::array<char, 64>{}](const Tensor& g) {
    for (int i = 0; i < 100; ++i) y.register_hook([&](const Tensor&) { return ++later, Tensor(); });
    ++first;
    return g * (2.0 + big[5]);
  });
  backward(sum(y), {.retain_graph = true});
  EXPECT_EQ(first, 1);
  EXPECT_EQ(later, 0);
  EXPECT_EQ(x.grad().item(), 4);
  backward(sum(y));
  EXPECT_EQ(first, 2);
  EXPECT_EQ(later, 100);
}

TEST(Engine, AHookMustKeepShapeAndDtype) {
  const Tensor x = leaf({1, 2, 3});
  const Tensor shaped = x * 2.0, cast = exp(x);
  shaped.register_hook([](const Tensor& g) { return sum(g); });
  cast.register_hook([](const Tensor& g) { return g.to(DType::f32); });
  expect_in(message_of<AutogradError>([&] { backward(sum(shaped)); }), {"hook of mul", "[3]", "[]"});
  expect_in(message_of<AutogradError>([&] { grad({sum(cast)}, {x}); }), {"hook of exp", "float64", "float32"});
  x.register_hook([](const Tensor& g) { return g.reshape({3, 1}); });
  expect_in(message_of<AutogradError>([&] { grad({sum(x * 2.0)}, {x}); }), {"hook of leaf", "[3]", "[3, 1]"});
  EXPECT_FALSE(x.grad().defined());
}

TEST(Engine, AFunctionMustKeepShapeAndDtype) {
  const auto through = [](auto rule) {
    return Function{.forward = [](FunctionContext&, const Tensors& in) { return Tensors{in[0] * 1.0}; },
                    .backward = [rule](const FunctionContext&, const Tensors& g) { return Tensors{rule(g[0])}; },
                    .name = "careless"};
  };
  const Tensor x = leaf({1, 2, 3});
  const Tensor shaped = apply(through([](const Tensor& g) { return sum(g); }), {x * 2.0})[0];
  expect_in(message_of<AutogradError>([&] { backward(sum(shaped)); }), {"careless", "input 0", "[3]", "[]"});
  const Tensor cast = apply(through([](const Tensor& g) { return g.to(DType::f32); }), {x * 2.0})[0];
  expect_in(message_of<AutogradError>([&] { backward(sum(cast)); }), {"careless", "float64", "float32"});
  EXPECT_FALSE(x.grad().defined());
  // Where nothing flows, anything goes.
  const Tensor fixed =
      apply(Function{.forward = [](FunctionContext&, const Tensors& in) { return Tensors{in[0] * in[1]}; },
                     .backward =
                         [](const FunctionContext&, const Tensors& g) {
                           return Tensors{g[0] * 2.0, sum(g[0])};
                         }},
            {x, of({2, 2, 2})})[0];
  backward(sum(fixed));
  EXPECT_EQ(numbers(x.grad()), (Numbers{2, 2, 2}));
}

TEST(Engine, AFunctionMaySaveItsOutputs) {
  const Function f{
      .forward =
          [](FunctionContext& c, const Tensors& in) {
            const Tensor e = exp(in[0]), s = tanh(in[0]);
            c.saved = {in[0], s, e};
            return Tensors{e, s};
          },
      .backward = [](const FunctionContext& c,
                     const Tensors& g) { return Tensors{g[0] * c.saved[2] + g[1] * (1.0 - c.saved[1] * c.saved[1])}; },
      .name = "exp_and_tanh"};
  const Tensor x = leaf({1});
  const Tensor g = grad({apply(f, {x})[0]}, {x}, {.create_graph = true})[0];
  EXPECT_NEAR(g.item(), std::exp(1.0), 1e-14);
  EXPECT_NEAR(grad({g}, {x})[0].item(), std::exp(1.0), 1e-14);
  gradgradcheck([&](const Tensors& in) { return apply(f, in); }, {of({0.5, -1})});
  // Saving an output makes no cycle: everything dies with the last handle.
  const size_t before = memory_stats().allocated;
  for (int i = 0; i < 10; ++i) {
    const Tensor z = leaf({1, 2});
    const Tensors y = apply(f, {z * 2.0});
    numbers(y[0] + y[1]);
    grad({sum(grad({sum(y[0])}, {z}, {.create_graph = true})[0])}, {z});
  }
  EXPECT_EQ(memory_stats().allocated, before);
}

}  // namespace
}  // namespace flame
