// Islands by their counters: what becomes one launch, what ends an island, and that op by op gives the same bits.
#include "flame/flame.h"

#include <gtest/gtest.h>

#include <thread>

#include "flame/fuse/island.h"
#include "tests/support/compare.h"

namespace flame {
namespace {

using namespace test;

Tensor fractions(const Shape& s, int salt = 0, DType t = DType::f32) {
  std::vector<float> v(static_cast<size_t>(numel(s)));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>((i * 37 + static_cast<size_t>(salt) * 11) % 101) / 32 - 1.5f;
  Tensor x = Tensor::from(v, s).to(t);
  x.data();
  return x;
}

struct Counted {
  uint64_t launches, islands, ops, fused_ops, prepared;
};
template <class F>
Counted count(F&& fn) {
  flush_pending();
  const Stats before = stats();
  {
    const auto kept = fn();
    flush_pending();
  }
  const Stats after = stats();
  return {after.launches - before.launches, after.island_launches - before.island_launches,
          after.pointwise_ops - before.pointwise_ops, after.island_ops - before.island_ops,
          after.plans_prepared - before.plans_prepared};
}

Tensor chain(const Tensor& x, const Tensor& a, const Tensor& b) {
  return relu(relu(x + 0.5) * 1.5 + 0.0 + a * 0.25) + 0.0 * b;
}
// The chain of the issue: add, mul, relu, add tensor, mul, mul tensor, add, relu.
Tensor issue_chain(const Tensor& x, const Tensor& a, const Tensor& b) {
  return relu((relu((x + 0.5) * 1.5) + a) * 0.75 * b + 0.125);
}
Tensor composed_layer_norm(const Tensor& x, const Tensor& w, const Tensor& b) {
  const Tensor centred = x - mean(x, -1, true);
  return centred * rsqrt(mean(square(centred), -1, true) + 1e-5) * w + b;
}
Tensor composed_softmax(const Tensor& x) {
  const Tensor e = exp(x - amax(x, -1, true));
  return e / sum(e, -1, true);
}

TEST(Islands, AChainOfEightIsOneLaunch) {
  const Tensor x = fractions({64, 33}), a = fractions({64, 33}, 1), b = fractions({64, 33}, 2);
  const Counted c = count([&] { return issue_chain(x, a, b); });
  EXPECT_EQ(c.launches, 1u);
  EXPECT_EQ(c.islands, 1u);
  EXPECT_EQ(c.ops, 8u);
  EXPECT_EQ(c.fused_ops, 8u);
  EXPECT_EQ(count([&] { return issue_chain(x, a, b); }).prepared, 0u);  // its plan is kept
  set_fusion(false);
  const Counted alone = count([&] { return issue_chain(x, a, b); });
  set_fusion(true);
  EXPECT_EQ(alone.launches, 8u);
  EXPECT_EQ(alone.fused_ops, 0u);
}

TEST(Islands, BackwardOfAChainIsFewLaunches) {
  Tensor x = fractions({64, 33}), a = fractions({64, 33}, 1), b = fractions({64, 33}, 2);
  x.requires_grad_();
  const Counted c = count([&] {
    backward(sum(issue_chain(x, a, b)));
    return x.grad();
  });
  EXPECT_LE(c.launches, 3u);  // the chain with its sum, the incoming one, and all of backward
}

TEST(Islands, LayerNormIsAtMostTwoLaunchesAndSoftmaxOne) {
  const Tensor x = fractions({16, 48}), w = fractions({48}, 1), b = fractions({48}, 2);
  const Counted norm = count([&] { return composed_layer_norm(x, w, b); });
  std::printf("composed layer norm: %llu launches of %llu ops\n", static_cast<unsigned long long>(norm.launches),
              static_cast<unsigned long long>(norm.ops));
  EXPECT_LE(norm.launches, 2u);
  EXPECT_EQ(norm.ops, 11u);  // a mean is a sum and a division
  EXPECT_LE(count([&] { return layer_norm(x, {48}, w, b); }).launches, 2u);
  EXPECT_EQ(count([&] { return composed_softmax(x); }).launches, 1u);
  EXPECT_EQ(count([&] { return softmax(x); }).launches, 1u);
  EXPECT_LE(count([&] { return log_softmax(x); }).launches, 1u);
}

TEST(Islands, CastsAndCheapViewsJoin) {
  const Tensor x = fractions({8, 5}, 0, DType::bf16), row = fractions({5}, 1);
  const Counted c = count([&] {
    return ((x.to(DType::f32) + row).reshape({8, 1, 5}) * 2).to(DType::bf16).squeeze(1) > 0;
  });
  EXPECT_EQ(c.launches, 1u);
}

TEST(Islands, UnusedResultsAreNotComputed) {
  const Tensor x = fractions({8});
  EXPECT_EQ(count([&] {
              { const Tensor dead = exp(x) * 3; }
              return x;
            }).launches,
            0u);
}

TEST(Islands, EndAtTheirLimitsAndSayWhy) {
  const Tensor x = fractions({8, 8});
  flush_pending();
  explain();
  {
    Tensor y = x;
    for (int i = 0; i < 40; ++i) y = y + 1;
    y.to_vector<float>();
  }
  std::string why = explain();
  EXPECT_NE(why.find("depth 32"), std::string::npos) << why;
  EXPECT_NE(why.find("host read"), std::string::npos) << why;
  {
    std::vector<Tensor> wide;
    for (int i = 0; i < 70; ++i) wide.push_back(x + i);
    flush_pending();
  }
  why = explain();
  EXPECT_NE(why.find("64 ops"), std::string::npos) << why;
  matmul(x + 1, x);
  why = explain();
  EXPECT_NE(why.find("matmul"), std::string::npos) << why;
  const State s(x);
  explain();
  const Tensor reader = s.tensor() * 2;
  s.assign(x);
  why = explain();
  EXPECT_NE(why.find("state"), std::string::npos) << why;
  EXPECT_TRUE(explain().empty());
}

TEST(Islands, BoundariesDoNotDependOnMemory) {
  const auto run = [] {
    const Tensor x = fractions({4, 4});
    Tensor y = x;
    std::vector<Tensor> junk;
    for (int i = 0; i < 100; ++i) y = sum(y * 0.5, 1, true) + x;
    return y;
  };
  const Counted a = count(run);
  empty_cache();
  const Counted b = count(run);
  EXPECT_EQ(a.launches, b.launches);
}

// `all` gives results with fusion that are those op by op.
void expect_same_bits_alone(const std::function<std::vector<Tensor>()>& all, const std::string& what) {
  const std::vector<Tensor> fused = all();
  set_fusion(false);
  const std::vector<Tensor> alone = all();
  set_fusion(true);
  for (size_t i = 0; i < fused.size(); ++i)
    EXPECT_EQ(difference(fused[i], alone[i]), "") << "result " << i << " in " << what;
}

TEST(Islands, OpByOpGivesTheSameBits) {
  for (DType t : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    const Tensor x = fractions({7, 130}, 0, t), w = fractions({130}, 1, t), b = fractions({130}, 2, t);
    const auto all = [&] {
      std::vector<Tensor> out{issue_chain(x, w, b),
                              composed_layer_norm(x, w, b),
                              composed_softmax(x),
                              softmax(x, 0),
                              chain(x, b, w),
                              layer_norm(x, {130}, w, b),
                              sum(x * w, 0),
                              mean(x, {0, 1}),
                              var(x, 0),
                              logsumexp(x, 1)};
      for (Tensor& y : out) materialize(y.value());
      return out;
    };
    expect_same_bits_alone(all, std::string(name_of(t)));
  }
}

// One row a tile, so that a value a row is read as a number: also by chains, which store while they still read it.
TEST(Islands, RowsAsLongAsATileGiveTheSameBits) {
  for (DType t : {DType::f32, DType::f64, DType::bf16})
    for (const int64_t cols : {600, 1003, 1024, 4096}) {
      const Tensor x = fractions({5, cols}, 0, t) + 0.25, w = fractions({cols}, 1, t);
      const auto all = [&] {
        const Tensor length = sqrt(sum(x * x, 1, true)), top = amax(x, 1, true);
        std::vector<Tensor> out{exp(x / length * 3.0),
                                exp((x - top) * w * 0.5),
                                tanh(x * rsqrt(mean(x * x, 1, true) + 1e-5) * w + 0.125),
                                (top - x) * 2.0,
                                x - top,
                                top,
                                composed_layer_norm(x, w, w)};
        for (Tensor& y : out) materialize(y.value());
        return out;
      };
      expect_same_bits_alone(all, std::string(name_of(t)) + ", " + std::to_string(cols));
    }
}

// Outputs larger than the caches are stored past them: the bits are those of a few rows computed alone.
TEST(Islands, LargeOutputsAreStreamed) {
  const int64_t rows = 9001, cols = 1003;  // 36 MB of float32; rows that start at odd addresses
  const Tensor x = fractions({rows, cols}), y = fractions({cols}, 3);
  const auto program = [](const Tensor& a, const Tensor& b) { return relu((a + 1.0) * b) - 0.1; };
  const Tensor large = program(x, y), shifted = program(x.slice(0, 1, rows).to(DType::f64), y.to(DType::f64));
  const Tensor centred = x - mean(x, {1}, true);
  for (int64_t row : {int64_t{0}, int64_t{1}, int64_t{4500}, rows - 1}) {
    const Tensor one = x.narrow(0, row, 1);
    EXPECT_EQ(numbers(large.narrow(0, row, 1)), numbers(program(one, y))) << row;
    EXPECT_EQ(numbers(centred.narrow(0, row, 1)), numbers(one - mean(one, {1}, true))) << row;
    const Tensor wide = program(one.to(DType::f64), y.to(DType::f64));
    EXPECT_TRUE(row == 0 || numbers(shifted.narrow(0, row - 1, 1)) == numbers(wide)) << row;
  }
}

// Copies without a block of their own and counted numbers: fewer blocks than nodes.
TEST(Islands, CopiesAndCountsInOneIsland) {
  const Tensor x = fractions({6}, 1, DType::bf16);
  const Tensor a = x.to(DType::f32), b = x.to(DType::f32), c = x.to(DType::f32), n = arange(0, 6, 1, DType::f32);
  const Tensor sum = n + a;
  EXPECT_EQ(numbers(n), (std::vector<double>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(numbers(a), numbers(x));
  EXPECT_EQ(numbers(b), numbers(c));
  EXPECT_EQ(numbers(sum)[5], 5 + numbers(x)[5]);
}

TEST(Islands, ReductionsDoNotDependOnThreads) {
  const int before = num_threads();
  const Tensor x = fractions({300, 5000}), flat = fractions({1500000});
  std::vector<std::vector<Tensor>> results;
  for (int n : {1, 2, 3}) {
    set_num_threads(n);
    results.push_back({sum(x * 1.1, 0), sum(x, 1), sum(flat), mean(flat), softmax(x), var(x)});
    for (Tensor& y : results.back()) materialize(y.value());
  }
  set_num_threads(before);
  for (size_t k = 1; k < results.size(); ++k)
    for (size_t i = 0; i < results[0].size(); ++i) EXPECT_EQ(difference(results[0][i], results[k][i]), "") << i;
}

// The network of the quickstart, with its loss and optimizer.
TEST(Islands, NineTenthsOfAStepsPointwiseOpsAreInsideThem) {
  nn::Sequential net{nn::layer<nn::Conv2d>({.in = 1, .out = 32, .kernel = 3, .padding = 1}),
                     nn::layer<nn::ReLU>(),
                     nn::layer<nn::MaxPool2d>({.kernel = 2}),
                     nn::layer<nn::Conv2d>({.in = 32, .out = 64, .kernel = 3, .padding = 1}),
                     nn::layer<nn::ReLU>(),
                     nn::layer<nn::MaxPool2d>({.kernel = 2}),
                     nn::layer<nn::Flatten>(),
                     nn::layer<nn::Linear>({.in = 3136, .out = 128}),
                     nn::layer<nn::ReLU>(),
                     nn::layer<nn::Dropout>({.p = 0.25}),
                     nn::layer<nn::Linear>({.in = 128, .out = 10})};
  optim::AdamW opt{net.parameters(), {.lr = 1e-3}};
  const Tensor images = fractions({4, 1, 28, 28}), labels = Tensor::from(std::vector<int64_t>{1, 2, 3, 9}, {4});
  Counted c{};
  for (int i = 0; i < 2; ++i)
    c = count([&] {
      const Tensor loss = cross_entropy(net(images), labels);
      backward(loss);
      opt.step();
      return loss;
    });
  const double share = static_cast<double>(c.fused_ops) / static_cast<double>(c.ops);
  std::printf("a step of the CNN: %llu launches, %llu of %llu pointwise ops (%.1f %%) in islands of two or more\n",
              static_cast<unsigned long long>(c.launches), static_cast<unsigned long long>(c.fused_ops),
              static_cast<unsigned long long>(c.ops), 100 * share);
  EXPECT_GE(share, 0.9);
}

TEST(IslandThreads, ValuesMadeOnOneThreadAreReadOnAnother) {
  constexpr int rounds = 200;
  for (int r = 0; r < (quick() ? 20 : rounds); ++r) {
    const Tensor x = fractions({16}, r);
    Tensor pending = x * 2 + 1;  // belongs to this thread's island
    std::vector<float> seen[3];
    Tensor theirs[3];
    std::vector<std::thread> threads;
    for (int k = 0; k < 3; ++k)
      threads.emplace_back([&, k] {
        seen[k] = (pending + static_cast<float>(k)).to_vector<float>();
        theirs[k] = pending * static_cast<float>(k);  // pending in an island whose thread ends
      });
    Tensor mine = pending - 1;
    for (std::thread& t : threads) t.join();
    const std::vector<float> base = x.to_vector<float>();
    for (int k = 0; k < 3; ++k) {
      const std::vector<float> left = theirs[k].to_vector<float>();
      for (size_t i = 0; i < base.size(); ++i) {
        ASSERT_EQ(seen[k][i], base[i] * 2 + 1 + static_cast<float>(k));
        ASSERT_EQ(left[i], (base[i] * 2 + 1) * static_cast<float>(k));
      }
    }
    ASSERT_EQ(mine.to_vector<float>()[3], base[3] * 2);
  }
}

TEST(IslandThreads, ThreadsTrainSideBySide) {
  const auto train = [](int salt) {
    Generator g(static_cast<uint64_t>(salt));
    const GeneratorScope scope(g);
    nn::Linear layer({.in = 6, .out = 3});
    optim::AdamW opt{layer.parameters(), {.lr = 0.05}};
    const Tensor x = fractions({8, 6}, salt);
    for (int i = 0; i < 30; ++i) {
      backward(mean(square(dropout(layer(x), 0.2) - 1)));
      opt.step();
    }
    return layer.weight.tensor().detach().to_vector<float>();
  };
  std::vector<std::vector<float>> alone, together(3);
  for (int k = 0; k < 3; ++k) alone.push_back(train(k));
  std::vector<std::thread> threads;
  for (int k = 0; k < 3; ++k) threads.emplace_back([&, k] { together[static_cast<size_t>(k)] = train(k); });
  for (std::thread& t : threads) t.join();
  for (size_t k = 0; k < 3; ++k) EXPECT_EQ(alone[k], together[k]);
}

}  // namespace
}  // namespace flame
