// Out of memory is an exception after which the program goes on: every allocation of a training step fails in turn, and
// each time nothing has changed, nothing leaks, and the repeated step gives the undisturbed bits.
#include "flame/flame.h"

#include <gtest/gtest.h>

#include "flame/device/cpu/cpu_device.h"
#include "tests/support/compare.h"

namespace flame {
namespace {

using namespace test;

Tensor batch(const Shape& s, int step) {
  std::vector<float> v(static_cast<size_t>(numel(s)));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>((i * 37 + static_cast<size_t>(step) * 101) % 127) / 32 - 1.5f;
  return Tensor::from(v, s);
}

struct Net : nn::Module {
  nn::Conv2d conv{*this, "conv", {.in = 1, .out = 4, .kernel = 3, .padding = 1}};
  nn::LayerNorm norm{*this, "norm", {.normalized = {4 * 3 * 3}}};
  nn::Linear head{*this, "head", {.in = 4 * 3 * 3, .out = 3}};
  Tensor forward(const Tensor& x) { return head(norm(max_pool2d(relu(conv(x)), {.kernel = 2}).flatten(1))); }
};
struct Trainer {
  Generator generator{7};
  std::unique_ptr<Net> net;
  std::unique_ptr<optim::AdamW> opt;
  Tensor x = batch({3, 1, 6, 6}, 1), y = Tensor::from(std::vector<int64_t>{0, 2, 1}, {3});
  Trainer() {
    const GeneratorScope scope(generator);
    net = std::make_unique<Net>();
    opt = std::make_unique<optim::AdamW>(net->parameters(), optim::AdamWOptions{.lr = 0.01});
  }
  Tensor forward_and_backward() {
    const Tensor loss = cross_entropy(dropout(net->forward(x), 0.1, true, &generator), y);
    backward(loss);
    optim::clip_grad_norm(net->parameters(), 1);
    return loss;
  }
  std::vector<std::vector<double>> state() const {
    std::vector<std::vector<double>> out;
    for (const auto& [name, s] : net->state_dict()) out.push_back(numbers(s.tensor()));
    for (const auto& [name, t] : opt->state_dict()) out.push_back(numbers(t));
    return out;
  }
};

class FailingAllocations : public ::testing::Test {
 protected:
  void TearDown() override { fail_allocation(0); }
};

TEST_F(FailingAllocations, OfATrainingStepChangeNothing) {
  Trainer calm, shaken;
  calm.forward_and_backward();
  calm.opt->step();
  const auto expected = calm.state();

  flush_pending();
  const auto before = shaken.state();
  const GeneratorState drawn = shaken.generator.state();
  const size_t baseline = memory_stats().allocated;
  int failures = 0;
  for (int64_t n = 1;; ++n) {
    bool refused = false;
    fail_allocation(n);
    try {
      shaken.forward_and_backward();
      shaken.opt->step();
    } catch (const OutOfMemory& e) {
      refused = true;
      EXPECT_NE(std::string(e.what()).find("out of memory"), std::string::npos);
    }
    fail_allocation(0);
    if (!refused) break;
    ++failures;
    shaken.net->zero_grad();
    shaken.generator.set_state(drawn);
    flush_pending();
    ASSERT_EQ(memory_stats().allocated, baseline) << "after allocation " << n << " failed";
    ASSERT_EQ(shaken.state(), before) << "after allocation " << n << " failed";
    ASSERT_LT(n, 2000);
  }
  std::printf("%d allocations of a training step failed in turn\n", failures);
  EXPECT_GT(failures, 15);
  EXPECT_EQ(shaken.state(), expected);
}

// A step with all that keeps something: running statistics, random numbers, segments that run again, clipped gradients
// that add to those of a step before.
struct DeepNet : nn::Module {
  nn::Conv2d conv{*this, "conv", {.in = 1, .out = 4, .kernel = 3, .padding = 1}};
  nn::BatchNorm2d norm{*this, "norm", {.channels = 4}};
  nn::Linear first{*this, "first", {.in = 4 * 3 * 3, .out = 12}};
  nn::Linear second{*this, "second", {.in = 12, .out = 12}};
  nn::Linear head{*this, "head", {.in = 12, .out = 3}};
  Tensor forward(const Tensor& x) {
    const auto picture = [this](const Tensor& t) { return max_pool2d(relu(norm(conv(t))), {.kernel = 2}); };
    const auto inner = [this](const Tensor& t) { return t + dropout(gelu(second(t)), 0.2); };
    const auto outer = [this, inner](const Tensor& t) { return checkpoint(inner, dropout(gelu(first(t)), 0.2)); };
    return head(checkpoint(outer, checkpoint(picture, x).flatten(1)));
  }
};
struct DeepTrainer {
  Generator generator{7};
  std::unique_ptr<DeepNet> net;
  std::unique_ptr<optim::AdamW> opt;
  Tensor x = batch({3, 1, 6, 6}, 1), y = Tensor::from(std::vector<int64_t>{0, 2, 1}, {3});
  DeepTrainer() {
    const GeneratorScope scope(generator);
    net = std::make_unique<DeepNet>();
    opt = std::make_unique<optim::AdamW>(net->parameters(), optim::AdamWOptions{.lr = 0.01});
  }
  void step() {
    const GeneratorScope scope(generator);
    attempt([&] {
      backward(cross_entropy(net->forward(x), y));
      optim::clip_grad_norm(net->parameters(), 1);
      opt->step();
    });
  }
  // Everything that a step may change: States, generators, gradients.
  std::vector<std::vector<double>> state() const {
    std::vector<std::vector<double>> out;
    for (const auto& [name, s] : net->state_dict()) out.push_back(numbers(s.tensor()));
    for (const auto& [name, t] : opt->state_dict()) out.push_back(numbers(t));
    for (const Parameter& p : net->parameters())
      out.push_back(p.grad().defined() ? numbers(p.grad()) : std::vector<double>{});
    const GeneratorState g = generator.state();
    out.push_back({static_cast<double>(g.seed), static_cast<double>(g.offset)});
    return out;
  }
};

TEST_F(FailingAllocations, OfAStepWithEverythingChangeNothing) {
  for (const bool accumulated : {false, true}) {
    DeepTrainer calm, shaken;
    for (DeepTrainer* t : {&calm, &shaken}) {
      if (accumulated) {  // gradients of another batch are there already
        const GeneratorScope scope(t->generator);
        backward(cross_entropy(t->net->forward(batch({3, 1, 6, 6}, 2)), t->y));
      }
      flush_pending();
      for (const Parameter& p : t->net->parameters())
        if (p.grad().defined()) p.grad().data();
    }
    const auto before = shaken.state();
    EXPECT_EQ(calm.state(), before);
    calm.step();
    const size_t baseline = memory_stats().allocated;
    int failures = 0;
    for (int64_t n = 1;; ++n) {
      bool refused = false;
      fail_allocation(n);
      try {
        shaken.step();
      } catch (const OutOfMemory&) { refused = true; }
      fail_allocation(0);
      if (!refused) break;
      ++failures;
      flush_pending();
      ASSERT_EQ(memory_stats().allocated, baseline) << "after allocation " << n << " failed";
      ASSERT_EQ(shaken.state(), before) << "after allocation " << n << " failed";
      ASSERT_LT(n, 2000);
    }
    std::printf("%d allocations of a step with everything failed in turn\n", failures);
    EXPECT_GT(failures, 60);
    EXPECT_EQ(shaken.state(), calm.state());
  }
}

TEST_F(FailingAllocations, OfABatchNormChangeNeitherStatistic) {
  const State mean(batch({4}, 1)), var(batch({4}, 2));
  const Tensor x = batch({5, 4}, 3);
  const std::vector<std::vector<double>> before{numbers(mean.tensor()), numbers(var.tensor())};
  int failures = 0;
  for (int64_t n = 1; n < 100; ++n) {
    const Tensor held[] = {mean.tensor(), var.tensor()};  // must be parted, which allocates
    fail_allocation(n);
    bool refused = false;
    try {
      batch_norm(x, mean, var);
    } catch (const OutOfMemory&) { refused = true; }
    fail_allocation(0);
    for (int i : {0, 1}) EXPECT_EQ(numbers(held[i]), before[static_cast<size_t>(i)]);
    if (!refused) break;
    ++failures;
    ASSERT_EQ(numbers(mean.tensor()), before[0]) << "after allocation " << n;
    ASSERT_EQ(numbers(var.tensor()), before[1]) << "after allocation " << n;
  }
  EXPECT_GE(failures, 4);
  EXPECT_NE(numbers(mean.tensor()), before[0]);
  EXPECT_NE(numbers(var.tensor()), before[1]);
}

TEST_F(FailingAllocations, OfAnOptimizerStepChangeNothing) {
  Trainer calm, shaken;
  for (Trainer* t : {&calm, &shaken}) {
    t->forward_and_backward();
    t->opt->step();
    t->forward_and_backward();
  }
  calm.opt->step();
  flush_pending();
  const auto before = shaken.state();
  const Tensor held = shaken.net->head.weight.tensor();  // must be parted, which allocates
  int failures = 0;
  for (int64_t n = 1; n < 100; ++n) {
    fail_allocation(n);
    bool refused = false;
    try {
      shaken.opt->step();
    } catch (const OutOfMemory&) { refused = true; }
    fail_allocation(0);
    if (!refused) break;
    ++failures;
    ASSERT_EQ(shaken.state(), before) << "after allocation " << n;
    ASSERT_TRUE(shaken.net->head.weight.grad().defined());
  }
  EXPECT_GE(failures, 1);
  EXPECT_EQ(shaken.state(), calm.state());
}

TEST_F(FailingAllocations, OfAnIslandLeaveItPending) {
  const Tensor x = batch({8, 8}, 2);
  const std::vector<double> expected = numbers(softmax(x * 2) + sum(x));
  const size_t baseline = memory_stats().allocated;
  for (int64_t n = 1; n < 20; ++n) {
    const Tensor y = softmax(x * 2) + sum(x);
    fail_allocation(n);
    bool refused = false;
    try {
      y.data();
    } catch (const OutOfMemory&) { refused = true; }
    fail_allocation(0);
    EXPECT_EQ(numbers(y), expected);  // a second attempt gives the value
    if (!refused) {
      EXPECT_GT(n, 1);
      break;
    }
  }
  EXPECT_EQ(memory_stats().allocated, baseline);
}

TEST_F(FailingAllocations, OfARecordedStepChangeNothing) {
  Trainer calm, shaken;
  auto step = record([&](const Tensor& x, const Tensor& y) {
    shaken.x = x;
    shaken.y = y;
    const Tensor loss = shaken.forward_and_backward();
    shaken.opt->step();
    return loss;
  });
  const Tensor x = shaken.x, y = shaken.y;
  int failures = 0;
  for (int i = 0; i < 5; ++i) {
    calm.forward_and_backward();
    calm.opt->step();
    for (int64_t n = 1; n < 2000; ++n) {
      const auto before = shaken.state();
      const GeneratorState drawn = shaken.generator.state();
      fail_allocation(n);
      bool refused = false;
      std::string what;
      try {
        step(x, y);
      } catch (const OutOfMemory& e) {
        refused = true;
        what = e.what();
      }
      fail_allocation(0);
      if (!refused) break;
      ++failures;
      shaken.net->zero_grad();
      shaken.generator.set_state(drawn);
      ASSERT_EQ(shaken.state(), before) << "call " << i << ", allocation " << n << ": " << what;
      n += 6;  // every seventh is enough here
    }
    ASSERT_EQ(shaken.state(), calm.state()) << "call " << i;
  }
  EXPECT_GT(failures, 3);
}

}  // namespace
}  // namespace flame
