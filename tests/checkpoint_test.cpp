// Checkpoints: the same bits as without, for less memory; random numbers, running statistics, nesting, recorded steps.
#include "flame/flame.h"

#include <gtest/gtest.h>

#include <thread>

#include "flame/tensor/op.h"
#include "tests/support/chosen.h"
#include "tests/support/compare.h"
#include "tests/support/error.h"

namespace flame {
namespace {

using namespace test;
using Tensors = std::vector<Tensor>;

Tensor numbers_of(const Shape& s, uint64_t seed) {
  Generator g(seed);
  return randn(s, {.generator = &g});
}

// A block with everything that could differ in a second run: parameters, dropout, batch norm, ops of every kind of node.
struct Block {
  Parameter w1, b1, w2, scale, shift;
  State mean, var;
  explicit Block(int64_t width, uint64_t seed = 1)
      : w1(numbers_of({width, width}, seed) * 0.3),
        b1(numbers_of({width}, seed + 1)),
        w2(numbers_of({width, width}, seed + 2) * 0.3),
        scale(ones({width})),
        shift(zeros({width})),
        mean(zeros({width})),
        var(ones({width})) {}
  Tensor operator()(const Tensor& x, Generator* g) const {
    const Tensor h = dropout(gelu(linear(x, w1, b1)), 0.3, true, g);
    const Tensor n = batch_norm(linear(h, w2), mean, var, scale, shift);
    return x + softmax(n, -1) * logsumexp(n, -1, true);
  }
  std::vector<Parameter> parameters() const { return {w1, b1, w2, scale, shift}; }
};

Tensors gradients(const Block& b) {
  Tensors out;
  for (const Parameter& p : b.parameters()) out.push_back(p.grad());
  return out;
}
void expect_same(const Tensors& a, const Tensors& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(difference(a[i], b[i]), "") << what << ", " << i;
}

TEST(Checkpoint, GivesTheSameBits) {
  for (const bool own_generator : {true, false}) {
    Tensors results[2], grads[2], statistics[2];
    GeneratorState drawn[2];
    for (const bool on : {false, true}) {
      const Block block(12);
      Generator g(5);
      const GeneratorScope scope(7);
      Generator* used = own_generator ? &g : nullptr;
      Tensor x = numbers_of({9, 12}, 3).requires_grad_();
      const auto fn = [&](const Tensor& t) { return block(t, used); };
      Tensor y = x;
      for (int i = 0; i < 3; ++i) y = on ? checkpoint(fn, y) : fn(y);
      y = dropout(y, 0.5, true, used);  // the draws after a segment go on as without it
      backward(sum(y * y));
      results[on] = {y, x.grad()};
      grads[on] = gradients(block);
      statistics[on] = {block.mean.tensor(), block.var.tensor()};
      drawn[on] = used ? g.state() : default_generator().state();
    }
    expect_same(results[0], results[1], "results");
    expect_same(grads[0], grads[1], "gradients");
    expect_same(statistics[0], statistics[1], "running statistics");  // three updates, not six
    EXPECT_EQ(drawn[0], drawn[1]);
  }
}

TEST(Checkpoint, SeesTheStatesOfTheFirstRun) {
  // Written after the forward pass: the gradient is still the one of the values that were used.
  Tensor grads[2], inputs[2];
  for (const bool on : {false, true}) {
    const Parameter w(numbers_of({4, 4}, 1)), b(numbers_of({4}, 2));
    Tensor x = numbers_of({3, 4}, 3).requires_grad_();
    const auto fn = [&](const Tensor& t) { return tanh(linear(tanh(linear(t, w, b)), w, b)); };
    const Tensor y = sum(on ? checkpoint(fn, x) : fn(x));
    w.assign(zeros({4, 4}));
    b.assign(ones({4}));
    backward(y);
    grads[on] = w.grad();
    inputs[on] = x.grad();
    EXPECT_EQ(numbers(w.tensor()), std::vector<double>(16, 0.0));
  }
  EXPECT_EQ(difference(grads[0], grads[1]), "");
  EXPECT_EQ(difference(inputs[0], inputs[1]), "");
}

TEST(Checkpoint, WritesOfTheSecondRunAreDropped) {
  const State counter(zeros({2}));
  const Parameter w(ones({2}));
  int runs = 0;
  const auto fn = [&](const Tensor& t) {
    ++runs;
    counter.assign(counter.tensor() + 1);
    counter.assign(counter.tensor() * 2);  // sees its own write, both times
    return exp(t * w) * counter.tensor();
  };
  const Tensor x = numbers_of({2}, 1);
  const Tensor y = sum(checkpoint(fn, x));
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(numbers(counter.tensor()), (std::vector<double>{2, 2}));
  backward(y);
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(numbers(counter.tensor()), (std::vector<double>{2, 2}));
  EXPECT_EQ(difference(w.grad(), exp(x * w.tensor().detach()) * 2.0 * x), "");
}

TEST(Checkpoint, WritesInPlaceBuildOnTheSameBytes) {
  const State counter(full({1}, 3));
  int runs = 0;
  const auto fn = [&](const Tensor& t) {
    ++runs;
    Value& v = counter.begin_write();  // as a kernel does that updates in place
    *(static_cast<float*>(v.storage->data()) + v.offset) += 1;
    return exp(t) * counter.tensor();
  };
  Tensor x = full({1}, 0.0).requires_grad_();
  const Tensor y = checkpoint(fn, x);
  EXPECT_EQ(numbers(counter.tensor()), std::vector<double>{4});
  backward(y);
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(numbers(counter.tensor()), std::vector<double>{4});
  EXPECT_EQ(numbers(x.grad()), std::vector<double>{4});
}

TEST(Checkpoint, SeveralInputsAndOutputs) {
  Tensors grads[2];
  for (const bool on : {false, true}) {
    Tensor a = numbers_of({3, 4}, 1).requires_grad_(), b = numbers_of({4, 2}, 2).requires_grad_();
    const Tensor c = numbers_of({3, 2}, 3);  // without a gradient
    const auto fn = [](const Tensor& a, const Tensor& b, const Tensor& c) {
      const Tensor m = matmul(sin(a), exp(b));
      return Tensors{m * c, amax(m, -1), cos(c)};
    };
    const Tensors y = on ? checkpoint(fn, a, b, c) : fn(a, b, c);
    ASSERT_EQ(y.size(), 3u);
    EXPECT_TRUE(y[0].requires_grad());
    EXPECT_FALSE(y[2].requires_grad());
    backward(sum(y[0]) + sum(y[1] * y[1]));
    grads[on] = {a.grad(), b.grad()};
  }
  expect_same(grads[0], grads[1], "gradients");
  const Tensors all =
      checkpoint([](const Tensors& in) { return Tensors{in[0] + in[1]}; }, {numbers_of({2}, 1), numbers_of({2}, 2)});
  EXPECT_EQ(all.size(), 1u);
}

TEST(Checkpoint, Nests) {
  Tensors grads[2];
  int runs = 0;
  for (const bool on : {false, true}) {
    const Block inner(6, 1), outer(6, 9);
    Generator g(5);
    runs = 0;
    const auto in = [&](const Tensor& t) {
      ++runs;
      return inner(t, &g);
    };
    const auto out = [&](const Tensor& t) {
      const Tensor h = outer(t, &g);
      return outer(on ? checkpoint(in, h) : in(h), &g);
    };
    Tensor x = numbers_of({5, 6}, 3).requires_grad_();
    const Tensor y = on ? checkpoint(out, x) : out(x);
    backward(sum(y * y));
    grads[on] = gradients(inner);
    for (const Tensor& t : gradients(outer)) grads[on].push_back(t);
    grads[on].push_back(x.grad());
    grads[on].push_back(inner.mean.tensor());
    grads[on].push_back(outer.var.tensor());
    grads[on].push_back(rand({3}, {.generator = &g}));
  }
  EXPECT_EQ(runs, 3);  // forward, for the outer segment, for itself
  expect_same(grads[0], grads[1], "nested");
}

TEST(Checkpoint, DifferentiatesAgain) {
  Tensors grads[2];
  for (const bool on : {false, true}) {
    const Block block(5);
    Tensor x = numbers_of({4, 5}, 3).requires_grad_();
    Generator g(5);
    const auto fn = [&](const Tensor& t) { return block(t, &g); };
    const Tensor y = sum(on ? checkpoint(fn, x) : fn(x));
    const Tensor dx = grad({y}, {x}, {.create_graph = true})[0];
    backward(sum(dx * dx) + y);
    grads[on] = gradients(block);
    grads[on].push_back(x.grad());
  }
  expect_same(grads[0], grads[1], "second derivatives");

  const Tensor x = numbers_of({2, 3}, 1).to(DType::f64);
  const auto segment = [](const Tensors& in) {
    return checkpoint([](const Tensor& t) { return tanh(t) * exp(t); }, in[0]);
  };
  const TensorFn fn = [&](const Tensors& in) { return Tensors{segment(in)}; };
  gradcheck(fn, {x});
  gradgradcheck(fn, {x});
}

TEST(Checkpoint, ServesRetainedGraphsAndPartsOfThem) {
  const Parameter w(numbers_of({3, 3}, 1));
  Tensor x = numbers_of({2, 3}, 2).requires_grad_();
  int runs = 0;
  const auto fn = [&](const Tensor& t) {
    ++runs;
    return tanh(matmul(tanh(t), w));
  };
  const Tensor y = sum(checkpoint(fn, x));
  const Tensor first = grad({y}, {x}, {.retain_graph = true})[0];
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(difference(grad({y}, {x}, {.retain_graph = true})[0], first), "");
  EXPECT_EQ(runs, 3);  // once a pass
  const size_t held = memory_stats().allocated;
  grad({y}, {x}, {.retain_graph = true})[0].data();  // needs one of the three saved tensors
  EXPECT_EQ(runs, 4);
  EXPECT_EQ(memory_stats().allocated, held) << "what the second run saved is still there";
  backward(y, {.retain_graph = true});
  EXPECT_EQ(difference(x.grad(), first), "");
  backward(y);
  const std::string freed = message_of<AutogradError>([&] { backward(y); });
  EXPECT_NE(freed.find("freed by an earlier backward"), std::string::npos) << freed;
}

TEST(Checkpoint, IsTheFunctionAloneWithoutAGraph) {
  int runs = 0;
  const auto fn = [&](const Tensor& t) {
    ++runs;
    return exp(t);
  };
  Tensor x = numbers_of({2}, 1).requires_grad_();
  EXPECT_FALSE(no_grad([&] { return checkpoint(fn, x); }).requires_grad());
  EXPECT_EQ(runs, 1);
  // Under scopes that have ended: the second run finds them again.
  const Tensor y = [&] {
    const GeneratorScope scope(11);
    return sum(checkpoint([&](const Tensor& t) { return dropout(exp(t), 0.5); }, x));
  }();
  const GeneratorState outside = default_generator().state();
  backward(y);
  EXPECT_EQ(default_generator().state(), outside);
  const Tensor want = [&] {
    const GeneratorScope scope(11);
    Tensor same = x.detach();
    same.requires_grad_();
    backward(sum(dropout(exp(same), 0.5)));
    return same.grad();
  }();
  EXPECT_EQ(difference(x.grad(), want), "");
}

TEST(Checkpoint, InsideTheSegmentGradientsMayBeTaken) {
  Tensor want, got;
  for (const bool on : {false, true}) {
    Tensor x = numbers_of({4}, 1).requires_grad_();
    Generator g(3);
    const auto fn = [&](const Tensor& t) {
      const Tensor energy = sum(tanh(dropout(t, 0.3, true, &g) * t));
      return grad({energy}, {t}, {.create_graph = true})[0] * dropout(t, 0.3, true, &g);
    };
    backward(sum(on ? checkpoint(fn, x) : fn(x)));
    (on ? got : want) = x.grad();
  }
  EXPECT_EQ(difference(want, got), "");
}

TEST(Checkpoint, ASecondRunThatDiffersIsReported) {
  Tensor x = numbers_of({4}, 1).requires_grad_();
  int runs = 0;
  const auto message = [&](const std::function<Tensor(const Tensor&)>& fn) {
    runs = 0;
    const Tensor y = sum(checkpoint(fn, x));
    return message_of<AutogradError>([&] { backward(y); });
  };
  const std::string fewer = message([&](const Tensor& t) { return runs++ ? exp(t) : exp(sin(t)); });
  EXPECT_NE(fewer.find("checkpoint"), std::string::npos) << fewer;
  EXPECT_NE(fewer.find("saved 2 tensors"), std::string::npos) << fewer;
  EXPECT_NE(fewer.find("checkpoint_test.cpp"), std::string::npos) << fewer;
  const std::string more = message([&](const Tensor& t) { return runs++ ? exp(sin(t)) : exp(t); });
  EXPECT_NE(more.find("the second more"), std::string::npos) << more;
  const std::string other = message([&](const Tensor& t) { return runs++ ? exp(t.narrow(0, 0, 2)).sum() : exp(t); });
  EXPECT_NE(other.find("[4]"), std::string::npos) << other;
  EXPECT_NE(other.find("[2]"), std::string::npos) << other;
  EXPECT_FALSE(x.grad().defined());
  // What fn throws in backward reaches the caller of backward, and the scopes are as before.
  const Tensor y = sum(checkpoint(
      [&](const Tensor& t) -> Tensor {
        if (runs++ > 5) throw std::runtime_error("no");
        runs = 6;
        return exp(t);
      },
      x));
  EXPECT_THROW(backward(y), std::runtime_error);
  EXPECT_TRUE(grad_enabled());
  EXPECT_EQ(SavedTensorHooksScope::current(), nullptr);
}

TEST(Checkpoint, InARecordedStep) {
  const auto train = [&](bool on, bool recorded) {
    const Block block(8);
    const GeneratorScope scope(7);
    optim::AdamW opt(block.parameters(), {.lr = 0.01});
    const auto fn = [&](const Tensor& t) { return block(t, nullptr); };
    const auto step = [&](const Tensor& x) {
      Tensor y = x;
      for (int i = 0; i < 2; ++i) y = on ? checkpoint(fn, y) : fn(y);
      const Tensor loss = mean(square(y));
      backward(loss);
      opt.step();
      return loss;
    };
    auto replayed = record(step);
    Tensors out;
    for (uint64_t i = 0; i < 6; ++i) {
      const Tensor x = numbers_of({5, 8}, 20 + i);
      const Tensor loss = recorded ? replayed(x) : step(x).detach();
      out.push_back(Tensor::from(loss.to_vector<float>(), {}));
    }
    if (recorded) { EXPECT_GE(replayed.stats().replays, 3u) << replayed.stats().last_miss; }
    for (const Parameter& p : block.parameters()) out.push_back(p.tensor().detach());
    out.push_back(block.mean.tensor());
    out.push_back(block.var.tensor());
    return out;
  };
  const Tensors want = train(false, false);
  expect_same(train(true, false), want, "eager");
  expect_same(train(false, true), want, "recorded");
  expect_same(train(true, true), want, "recorded with checkpoints");
}

TEST(Checkpoint, ThreadsShareAGraph) {
  const Parameter w(numbers_of({16, 16}, 1));
  Tensor x = numbers_of({8, 16}, 2).requires_grad_();
  const auto fn = [&](const Tensor& t) { return tanh(matmul(tanh(matmul(t, w)), w)); };
  const Tensor y = sum(checkpoint(fn, x));
  const Tensor want = grad({y}, {x}, {.retain_graph = true})[0];
  Tensors got(4);
  std::vector<std::thread> threads;
  for (Tensor& g : got)
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) g = grad({y}, {x}, {.retain_graph = true})[0];
      g.data();
    });
  for (std::thread& t : threads) t.join();
  for (const Tensor& g : got) EXPECT_EQ(difference(g, want), "");
}

// Every op, alone in a checkpoint: the same bits, and no more memory held than without a graph.
TEST(Checkpoint, EveryOpGivesTheSameBitsAndKeepsNothing) {
  int ops = 0, cases = 0;
  for (const OpEntry& e : Registry::global().entries()) {
    if (!e.differentiable || !chosen(e.name)) continue;
    ++ops;
    for (const SampleCase& c : e.samples(DType::f32)) {
      const std::string what = e.name + ", " + c.label;
      Tensors in = c.inputs, leaves;
      for (size_t i = 0; i < in.size(); ++i) {
        if (!in[i].defined()) continue;
        in[i].data();
        if (is_float(in[i].dtype()) && (c.wrt < 0 || i < static_cast<size_t>(c.wrt)))
          leaves.push_back(in[i].requires_grad_());
      }
      const auto held_by = [&](const std::function<Tensors()>& run, Tensors& out) {
        flush_pending();
        const size_t before = memory_stats().allocated;
        out = run();
        for (const Tensor& y : out) y.data();
        return memory_stats().allocated - before;
      };
      const auto gradients = [&](const Tensors& out) {
        Tensors outputs, seeds;
        for (const Tensor& y : out)
          if (y.requires_grad()) {
            outputs.push_back(y);
            seeds.push_back(full_like(y, 0.5));
          }
        return outputs.empty() ? outputs : grad(outputs, leaves, {.grad_outputs = seeds, .allow_unused = true});
      };
      Tensors bare, plain, segment;
      const size_t least = held_by([&] { return no_grad([&] { return c.fn(in); }); }, bare);
      held_by([&] { return c.fn(in); }, plain);
      EXPECT_LE(held_by([&] { return checkpoint(c.fn, in); }, segment), least) << what;
      expect_same(segment, plain, what);
      expect_same(gradients(segment), gradients(plain), what);
      ++cases;
    }
  }
  std::printf("%d ops, %d cases\n", ops, cases);
  EXPECT_GT(cases, 0);
}

TEST(Checkpoint, FreesActivations) {
  // 16 segments of four layers: without, all 64 layers' activations live at once; with, the inputs of the segments and
  // the activations of one of them.
  constexpr int64_t rows = 512, width = 64;
  constexpr int segments = 16, layers = 4;
  size_t peak[2];
  Tensor grads[2];
  for (const bool on : {false, true}) {
    const Parameter w(numbers_of({width, width}, 1) * 0.2);
    const Tensor x = numbers_of({rows, width}, 2);
    const auto segment = [&](const Tensor& t) {
      Tensor h = t;
      for (int i = 0; i < layers; ++i) h = tanh(linear(h, w));
      return h;
    };
    flush_pending();
    reset_peak_memory();
    const size_t before = memory_stats().allocated;
    Tensor y = x;
    for (int i = 0; i < segments; ++i) y = on ? checkpoint(segment, y) : segment(y);
    backward(sum(y));
    grads[on] = w.grad();
    grads[on].data();
    peak[on] = memory_stats().peak - before;
  }
  EXPECT_EQ(difference(grads[0], grads[1]), "");
  constexpr size_t one = rows * width * sizeof(float);
  std::printf("peak memory of 64 layers: %.1f activations, with checkpoints %.1f\n", static_cast<double>(peak[0]) / one,
              static_cast<double>(peak[1]) / one);
  EXPECT_GT(peak[0], segments * layers * one);
  EXPECT_LT(peak[1], (segments + 2 * layers + 6) * one);
}

}  // namespace
}  // namespace flame
