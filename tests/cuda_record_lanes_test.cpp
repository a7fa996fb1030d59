// Lanes of a GPU's recorded steps: what does not need each other runs beside each other, with the bits of eager steps; and graphs
// that are replayed by another thread, or that cannot be.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>

#include "flame/device/device_scope.h"
#include "flame/ops/cuda_kernel.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"
#include "tests/support/deterministic.h"
#include "tests/support/trainer.h"

namespace flame {
namespace {

using namespace test;

// Kernels of one thread that do nothing for a while: two chains of them take half as long beside each other.
TEST(CudaRecordLanes, TakeTheTimeOfTheLongest) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope device(d);
  const CudaKernel spin(R"(
extern "C" __global__ void spin(const float* x, float* y, long long cycles) {
  const long long start = clock64();
  while (clock64() - start < cycles) {}
  y[0] = x[0] + 1;
})",
                        "spin");
  const auto time = [&](int lanes) {
    auto step = record(
        [&](const Tensor& x) {
          Tensor a = x * 1, b = x * 2;
          for (int i = 0; i < 4; ++i) {
            a = spin({.threads = 1}, a, KernelOutput{{1}}, int64_t{1000000});
            b = spin({.threads = 1}, b, KernelOutput{{1}}, int64_t{1000000});
          }
          return a + b;
        },
        {.lanes = lanes});
    const Tensor x = full({1}, 3);
    double least = 1e9;
    for (int i = 0; i < 8; ++i) {
      d.synchronize();
      const auto start = std::chrono::steady_clock::now();
      EXPECT_EQ(step(x).item(), 3 + 4 + 6 + 4);
      const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
      if (i > 2) least = std::min(least, took.count());
    }
    EXPECT_EQ(step.stats().lanes, static_cast<size_t>(lanes)) << step.stats().last_miss;
    return least;
  };
  const double one = time(1), two = time(2);
  std::printf("two chains of four kernels: %.2f ms in one lane, %.2f in two\n", one, two);
  EXPECT_LT(two, 0.7 * one);
}

// Products whose inner size is so long that cuBLASLt parts it and adds up in its workspace: each lane has one of its own.
TEST(CudaRecordLanes, ProductsBesideEachOtherHaveTheirOwnWorkspaces) {
  FLAME_NEEDS_GPU(d);
  const Deterministic bits;
  const DeviceScope device(d);
  Generator g(3);
  const auto random = [&](const Shape& s) { return normal(s, 0, 0.01, {.generator = &g}); };
  const Tensor wide = random({96, 32768}), tall = random({32768, 96}), back = random({96, 32768});
  const auto fn = [&](const Tensor& x) {
    Tensor a = x, b = x * 2;
    for (int i = 0; i < 6; ++i) {
      const Tensor p = matmul(a, back), q = matmul(b, wide);
      a = matmul(p, tall);
      b = matmul(q, tall);
    }
    return std::vector<Tensor>{a, b};
  };
  auto step = record(fn, {.lanes = 2});
  for (int i = 0; i < 30; ++i) {
    const Tensor x = random({96, 96});
    const auto wanted = fn(x), got = step(x);
    for (size_t k = 0; k < 2; ++k) ASSERT_EQ(difference(got[k], wanted[k]), "") << k << " of call " << i;
  }
  EXPECT_EQ(step.stats().replays, 28u) << step.stats().last_miss;
  EXPECT_EQ(step.stats().lanes, 2u);
}

// Two attentions that do not need each other, in bfloat16.
struct Attentions : nn::Module {
  nn::MultiheadAttention a{*this, "a", {.width = 64, .heads = 2, .batch_first = true}},
      b{*this, "b", {.width = 64, .heads = 4, .batch_first = true}};
  nn::LayerNorm norm{*this, "norm", {.normalized = {64}}};
  nn::Linear head{*this, "head", {.in = 64, .out = 5}};
  Tensor forward(const Tensor& x) {
    const Tensor y = norm(x + a(x, x, x, {.causal = true}) + b(x, x, x));
    return head(dropout(y.mean(Axes{1}), 0.1));
  }
};
struct Trained {
  Generator generator{11};
  GeneratorScope scope{generator};
  Attentions net;
  optim::AdamW opt{net.parameters(), {.lr = 0.01}};
  std::vector<Tensor> step(const Tensor& x, const Tensor& y) {
    const Tensor loss = [&] {
      const AutocastScope half(DType::bf16);
      return cross_entropy(net.forward(x), y);
    }();
    backward(loss);
    opt.step({.max_norm = 0.5});
    return {loss};
  }
};
template <class F>
auto with(Trained& t, F&& fn) {
  const GeneratorScope scope(t.generator);
  return fn();
}
void expect_equal(const Trained& a, const Trained& b, const std::string& when) {
  ASSERT_EQ(a.generator.state(), b.generator.state()) << when;
  const auto x = a.opt.state_dict(), y = b.opt.state_dict();
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(difference(x[i].second, y[i].second), "") << x[i].first << when;
  const auto p = a.net.state_dict(), q = b.net.state_dict();
  for (size_t i = 0; i < p.size(); ++i)
    ASSERT_EQ(difference(p[i].second.tensor(), q[i].second.tensor()), "") << p[i].first << when;
}

TEST(CudaRecordLanes, AttentionInBfloat16EqualsEager) {
  FLAME_NEEDS_GPU(d);
  const Deterministic bits;
  const DeviceScope device(d);
  for (const int lanes : {1, 2, 4}) {
    auto eager = std::make_unique<Trained>(), recorded = std::make_unique<Trained>();
    auto step = record([&](const Tensor& x, const Tensor& y) { return recorded->step(x, y); }, {.lanes = lanes});
    for (int i = 0; i < 25; ++i) {
      const Tensor x = batch({8, 16, 64}, i), y = classes(8, 5, i);
      const auto a = with(*eager, [&] { return eager->step(x, y); });
      const auto b = with(*recorded, [&] { return step(x, y); });
      const std::string when = " at step " + std::to_string(i) + " in " + std::to_string(lanes) + " lanes";
      ASSERT_EQ(difference(a[0], b[0]), "") << when;
      expect_equal(*eager, *recorded, when);
    }
    EXPECT_EQ(step.stats().replays, 23u) << step.stats().last_miss;
    EXPECT_EQ(step.stats().misses, 0u);
    EXPECT_EQ(step.stats().lanes > 1, lanes > 1);
  }
}

TEST(CudaRecordLanes, RepeatedStepsEqualSingleOnes) {
  FLAME_NEEDS_GPU(d);
  const Deterministic bits;
  const DeviceScope device(d);
  constexpr int k = 4, calls = 6;
  const std::vector<Tensor> data{batch({100, 16, 64}, 1), classes(100, 5, 2)};
  DeviceBatches one(data, {.batch = 8, .seed = 9}), many(data, {.batch = 8, .seed = 9});
  auto single = std::make_unique<Trained>(), repeated = std::make_unique<Trained>();
  auto steps = repeat(k, [&](const Tensor& x, const Tensor& y) { return repeated->step(x, y); }, many, {.lanes = 3});
  for (int i = 0; i < calls; ++i) {
    with(*single, [&] {
      for (int n = 0; n < k; ++n) {
        const std::vector<Tensor> rows = one.next();
        single->step(rows[0], rows[1]);
      }
      return 0;
    });
    with(*repeated, [&] { return steps(); });
    expect_equal(*single, *repeated, " after call " + std::to_string(i));
  }
  EXPECT_EQ(steps.stats().replays, calls - 2u) << steps.stats().last_miss;
  EXPECT_GT(steps.stats().lanes, 1u);
}

// A thread that never touched the GPU tells the graph where the arguments are now: of a kernel, and of the copy for a library.
TEST(CudaRecord, AnotherThreadReplaysWithOtherArguments) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope device(d);
  const Tensor w = batch({4, 4}, 3);
  auto product = record([&](const Tensor& x) { return matmul(x, w); });
  auto both = record([&](const Tensor& x) { return std::vector<Tensor>{matmul(x, w), exp(x)}; });
  std::vector<Tensor> x, wanted, raised;
  for (int i = 0; i < 4; ++i) {
    x.push_back(batch({4, 4}, i));
    wanted.push_back(matmul(x.back(), w) + 0.0);
    raised.push_back(exp(x.back()) + 0.0);
    wanted.back().data(), raised.back().data();
    product(x.back());
    both(x.back());
  }
  d.synchronize();
  std::thread([&] {
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(difference(product(x[i]), wanted[i]), "") << i;
  }).join();
  std::thread([&] {
    for (size_t i = 0; i < 4; ++i) {
      const auto out = both(x[i]);
      EXPECT_EQ(difference(out[0], wanted[i]), "") << i;
      EXPECT_EQ(difference(out[1], raised[i]), "") << i;
    }
  }).join();
  EXPECT_EQ(product.stats().replays + both.stats().replays, 12u);
}

// A launch that reads on the host is no part of a graph: the step is replayed launch by launch.
TEST(CudaRecord, AStepThatNoGraphTakesIsAList) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope device(d);
  const State total(zeros({4}));
  const Ref<Plan> reads = make_ref<Plan>("reads on the host", [&](const flame::Run& r) {
    float first;
    d.copy_to_host(&first, r.buffers[0], sizeof first);
  });
  auto step = record([&](const Tensor& x) {
    total.assign(total.tensor() + x);
    const Buffer at = total.value().buffer();
    d.launch({reads, {&at, 1}, {}, {}});
    return exp(x);
  });
  Tensor wanted = zeros({4});
  const uint64_t before = stats().graph_launches;
  for (int i = 0; i < 6; ++i) {
    const Tensor x = batch({4}, i);
    wanted = wanted + x;
    EXPECT_EQ(difference(step(x), exp(x)), "") << i;
    EXPECT_EQ(difference(total.tensor(), wanted), "") << i;
  }
  EXPECT_EQ(step.stats().replays, 4u);
  EXPECT_EQ(step.stats().misses, 1u);
  EXPECT_EQ(step.stats().lanes, 0u);
  EXPECT_NE(step.stats().last_miss.find("reads on the host"), std::string::npos) << step.stats().last_miss;
  EXPECT_EQ(stats().graph_launches, before);
}

}  // namespace
}  // namespace flame
