// Recorded steps against eager ones: the same bits at every step, one step a call, and a clear word when a step does
// not repeat.
#include "flame/flame.h"

#include <gtest/gtest.h>

#include <set>

#include "flame/fuse/island.h"
#include "flame/train/lanes_internal.h"
#include "tests/support/compare.h"
#include "tests/support/graph_device.h"
#include "tests/support/guarded_device.h"
#include "tests/support/trainer.h"

namespace flame {
namespace {

using namespace test;

void expect_equal_to_eager(int steps, int lanes = 0, bool half = false) {
  const OneThread thread;
  auto eager = std::make_unique<Trainer>(half);
  auto recorded = std::make_unique<Trainer>(half);
  auto step = record([&](const Tensor& x, const Tensor& y) { return recorded->step(x, y); }, {.lanes = lanes});
  for (int i = 0; i < steps; ++i) {
    const float scale = half && i % 37 == 20 ? 1e4f : 1.0f / 32;  // overflows: a step that the scaler skips
    const Tensor x = batch({4, 2, 8, 8}, i, scale), y = classes(4, 5, i);
    std::vector<Tensor> a, b;
    alternate(*eager, [&] { a = eager->step(x, y); });
    alternate(*recorded, [&] { b = step(x, y); });
    const std::string when = "at step " + std::to_string(i);
    for (size_t k = 0; k < a.size(); ++k) ASSERT_EQ(difference(a[k], b[k]), "") << "result " << k << " " << when;
    expect_equal_state(*eager, *recorded, when);
  }
  const RecordStats& s = step.stats();
  EXPECT_EQ(s.calls, static_cast<uint64_t>(steps));
  EXPECT_EQ(s.replays, static_cast<uint64_t>(steps - 2)) << s.last_miss;
  EXPECT_EQ(s.recordings, 1u);
  EXPECT_EQ(s.misses, 0u);
  std::printf("a recorded step: %zu launches, %zu bytes of arena, %llu replays of %llu calls\n", s.launches,
              s.arena_bytes, static_cast<unsigned long long>(s.replays), static_cast<unsigned long long>(s.calls));
}

int few() { return quick() ? 8 : 30; }
int many() { return quick() ? 30 : 200; }

TEST(Record, EqualsEagerAtEveryStep) { expect_equal_to_eager(many()); }
TEST(Record, EqualsEagerAtEveryStepInHalf) { expect_equal_to_eager(many(), 0, true); }

// Fresh memory holds NaN patterns and blocks have guards: a replay that reads what nobody wrote, or writes beside its
// place, is seen.
TEST(Record, EqualsEagerOnGuardedMemory) {
  {
    const DefaultDevice device(guarded());
    expect_equal_to_eager(few());
    flush_pending();
  }
  EXPECT_EQ(guarded().violations(), "");
}

// As a GPU does it: what changes from step to step is told to the graph, what a library reads is copied to where it reads.
TEST(Record, EqualsEagerAsAGraph) {
  GraphDevice& d = graph_device();
  const DefaultDevice device(d);
  d.renewals.clear();
  d.starts = 0;
  const uint64_t before = stats().launches;
  expect_equal_to_eager(many());
  const int replays = many() - 2;
  EXPECT_EQ(d.starts, replays);
  EXPECT_EQ(d.renewals["AdamW"], replays);
  int islands = 0;  // those with dropout, forward and backward, and what reads arguments that have moved
  for (const auto& [op, n] : d.renewals) islands += op.starts_with("island(") ? n : 0;
  EXPECT_GE(islands, 2 * replays);
  EXPECT_EQ(d.renewals.count("gemm"), 0u);
  EXPECT_GT(stats().launches, before);
  expect_equal_to_eager(many(), 3, true);
  EXPECT_EQ(d.starts, 2 * replays);
}

// In an order that is as unlike the program's as the lanes allow.
TEST(Record, EqualsEagerInLanes) {
  GraphDevice& d = graph_device();
  const DefaultDevice device(d);
  for (const int lanes : {0, 1, 2, 3, 8}) {
    d.out_of_order = 0;
    expect_equal_to_eager(few(), lanes);
    EXPECT_EQ(d.out_of_order > 0, lanes > 1) << lanes;
    std::printf("%d lanes: %d launches out of order\n", lanes, d.out_of_order);
  }
}

TEST(Record, LanesKeepWhatDependsInOrder) {
  uint64_t seed = 1;
  const auto below = [&](uint64_t n) {
    return static_cast<size_t>(((seed = seed * 6364136223846793005u + 1) >> 33) % n);
  };
  for (int round = 0; round < 50; ++round) {
    std::vector<Accesses> parts(40);
    for (Accesses& p : parts)
      for (int k = 0; k < 3; ++k) {
        const uintptr_t from = below(60);
        p.push_back({from, from + 1 + below(4), below(3) == 0});
      }
    const uint32_t count = 1 + static_cast<uint32_t>(below(4));
    const Lanes l = lanes_of(parts, count);
    std::vector<std::set<size_t>> before(parts.size());  // all that a part comes behind
    for (size_t i = 0; i < parts.size(); ++i) {
      ASSERT_LT(l.lane[i], count);
      const auto behind = [&](size_t j) {
        before[i].insert(j);
        before[i].insert(before[j].begin(), before[j].end());
      };
      for (size_t j = i; j-- > 0;)
        if (l.lane[j] == l.lane[i]) {
          behind(j);
          break;
        }
      for (const uint32_t j : l.after[i]) {
        ASSERT_LT(j, i);
        behind(j);
      }
      for (size_t j = 0; j < i; ++j)
        for (const Access& a : parts[i])
          for (const Access& b : parts[j])
            EXPECT_TRUE(!(a.write || b.write) || a.from >= b.to || b.from >= a.to || before[i].contains(j))
                << j << " before " << i;
    }
  }
}

TEST(Record, AGraphReadsArgumentsWhereverTheyAre) {
  GraphDevice& d = graph_device();
  const DefaultDevice device(d);
  const Tensor w = batch({4, 4}, 3);
  const Tensor all = batch({9, 4}, 5);
  const State state(batch({4, 4}, 6));
  auto step = record([&](const Tensor& x, const Tensor& y) {
    const Tensor product = matmul(x, w);
    return std::vector<Tensor>{product, exp(y), y, sum(x * y)};
  });
  const auto expect_step = [&](const Tensor& x, const Tensor& y) {
    const std::vector<Tensor> wanted{matmul(x, w) + 0.0, exp(y) + 0.0, y + 0.0, sum(x * y) + 0.0};
    for (const Tensor& t : wanted) t.to_vector<float>();
    const std::vector<Tensor> out = step(x, y);
    for (size_t i = 0; i < wanted.size(); ++i) EXPECT_EQ(difference(out[i], wanted[i]), "") << i;
    return out;
  };
  for (int i = 0; i < 4; ++i) expect_step(batch({4, 4}, i), batch({4, 4}, i + 1));
  d.renewals.clear();
  const Tensor x = batch({4, 4}, 1), y = batch({4, 4}, 2);
  std::vector<Tensor> out = expect_step(x, y);
  out = expect_step(y, x);
  const auto told = [&] {
    int n = 0;
    for (const auto& [op, times] : d.renewals) n += op == "copy of an argument" ? 0 : times;
    return n;
  };
  const int before = told();
  EXPECT_GT(before, 0);
  out = expect_step(x, x);
  out = expect_step(y, x);  // what a kernel of ours reads has not moved: it takes y from where products want it
  EXPECT_EQ(told(), before);
  out = expect_step(out[0], out[1]);
  out = expect_step(state.tensor(), state.tensor());
  for (int64_t i = 0; i < 5; ++i) out = expect_step(all.narrow(0, i, 4), all.narrow(0, 5 - i, 4));
  EXPECT_EQ(step.stats().misses, 0u) << step.stats().last_miss;
  EXPECT_EQ(step.stats().replays, 13u);
}

// Nothing of a graph that could not be started was done, on the device or on the host.
TEST(Record, AGraphThatFailsChangesNothing) {
  GraphDevice& d = graph_device();
  const DefaultDevice device(d);
  auto eager = std::make_unique<Trainer>(), recorded = std::make_unique<Trainer>();
  auto step = record([&](const Tensor& x, const Tensor& y) { return recorded->step(x, y); });
  d.fail_capture = true;  // the second call's recording
  for (int i = 0; i < 8; ++i) {
    const Tensor x = batch({4, 2, 8, 8}, i), y = classes(4, 5, i);
    alternate(*eager, [&] { eager->step(x, y); });
    alternate(*recorded, [&] {
      if (i == 5) {
        d.fail_start = true;
        EXPECT_THROW(step(x, y), OutOfMemory);
      }
      step(x, y);
    });
    expect_equal_state(*eager, *recorded, "at step " + std::to_string(i));
    EXPECT_EQ(step.stats().last_miss.find("planted") != std::string::npos, i > 0);
    EXPECT_EQ(step.stats().recordings, i < 2 ? 0u : 1u);
  }
  EXPECT_EQ(step.stats().misses, 1u);
  EXPECT_EQ(step.stats().replays, 5u);  // the one that failed was none
}

TEST(Record, AWarmReplayAllocatesPreparesAndReadsNothing) {
  Trainer t;
  auto step = record([&](const Tensor& x, const Tensor& y) { return t.step(x, y); });
  const Tensor x = batch({4, 2, 8, 8}, 0), y = classes(4, 5, 0);
  for (int i = 0; i < 4; ++i) step(x, y);
  const Stats before = stats();
  const MemoryStats memory = memory_stats();
  for (int i = 0; i < 5; ++i) step(x, y);
  const Stats after = stats();
  EXPECT_EQ(after.replays - before.replays, 5u);
  EXPECT_EQ(after.system_allocations, before.system_allocations);
  EXPECT_EQ(after.plans_prepared, before.plans_prepared);
  EXPECT_EQ(after.host_copies, before.host_copies);
  EXPECT_EQ(memory_stats().allocated, memory.allocated);
  EXPECT_EQ((after.launches - before.launches) / 5, step.stats().launches);
}

// Negative controls: the comparison above must tell another seed and a step without clipping apart.
TEST(Record, AnotherSeedAndAStepWithoutClippingAreToldApart) {
  std::vector<Tensor> weights;
  for (const auto& [seed, clips] : {std::pair(11, true), {11, true}, {12, true}, {11, false}}) {
    Trainer t;
    t.generator.manual_seed(static_cast<uint64_t>(seed));
    t.clips = clips;
    auto step = record([&](const Tensor& x, const Tensor& y) { return t.step(x, y); });
    for (int i = 0; i < 6; ++i) step(batch({4, 2, 8, 8}, i), classes(4, 5, i));
    weights.push_back(t.net.head.weight.tensor() + 0.0);
  }
  EXPECT_EQ(difference(weights[0], weights[1]), "");
  EXPECT_NE(difference(weights[0], weights[2]), "");
  EXPECT_NE(difference(weights[0], weights[3]), "");
}

TEST(Record, OtherShapesRunEagerlyAndAreRecordedApart) {
  const Parameter w(batch({3, 2}, 0));
  optim::AdamW opt{{w}, {.lr = 0.1}};
  auto step = record([&](const Tensor& x) {
    const Tensor loss = sum(square(matmul(x, w.tensor())));
    backward(loss);
    opt.step();
    return loss;
  });
  for (int i = 0; i < 4; ++i) step(batch({5, 3}, i));
  EXPECT_EQ(step.stats().replays, 2u);
  const float eager = static_cast<float>(step(batch({4, 3}, 9)).item());
  EXPECT_TRUE(std::isfinite(eager));
  EXPECT_EQ(step.stats().replays, 2u);
  for (int i = 0; i < 4; ++i) step(batch({5, 3}, i));  // the first recording is still good
  EXPECT_EQ(step.stats().replays, 6u);
  for (int i = 0; i < 4; ++i) step(batch({4, 3}, i));
  EXPECT_EQ(step.stats().recordings, 2u);
  EXPECT_GE(step.stats().replays, 9u);
  step(batch({5, 3}, 0).to(DType::f64).to(DType::f32).t().contiguous().t());  // other strides
  EXPECT_EQ(opt.step_count(), 14);
}

TEST(Record, TheRecordingUsedLongestAgoLeaves) {
  auto step = record([](const Tensor& x) { return sum(x * 3, Axes{1}); }, {.max_recordings = 2});
  const auto call = [&](int64_t rows, int times) {
    const uint64_t before = step.stats().replays;
    for (int i = 0; i < times; ++i) {
      const Tensor x = batch({rows, 4}, i);
      EXPECT_EQ(difference(step(x), sum(x * 3, Axes{1})), "");
    }
    return step.stats().replays - before;
  };
  EXPECT_EQ(call(100, 3), 1u);
  EXPECT_EQ(call(200, 3), 1u);
  EXPECT_EQ(call(100, 1), 1u);
  const size_t two = memory_stats(cpu()).allocated;
  EXPECT_EQ(call(100, 1), 1u);
  EXPECT_EQ(call(50, 3), 1u);  // that of 200 rows has left, with its memory
  EXPECT_LT(memory_stats(cpu()).allocated, two);
  EXPECT_EQ(call(100, 1), 1u);
  EXPECT_EQ(call(200, 3), 1u);  // that of 50
  EXPECT_EQ(call(100, 1), 1u);
  EXPECT_EQ(call(50, 1), 0u);
  EXPECT_EQ(step.stats().recordings, 4u);
  EXPECT_EQ(step.stats().misses, 0u);
}

TEST(Record, TrainAndEvalAreRecordedApart) {
  nn::Sequential net{nn::layer<nn::Linear>({.in = 6, .out = 6}), nn::layer<nn::Dropout>({.p = 0.5})};
  auto step = record([&](const Tensor& x) { return net(x); });
  const Tensor x = batch({8, 6}, 1);
  for (int i = 0; i < 4; ++i) step(x);
  net.eval();
  const Tensor expected = net(x);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(difference(step(x), expected), "") << "evaluation " << i;
  net.train();
  EXPECT_NE(difference(step(x), expected), "");
}

TEST(Record, GradientsThatAreSetAreGuarded) {
  const Parameter w(batch({3}, 0));
  auto step = record([&](const Tensor& x) {  // accumulates: the first call sets the gradient, the second adds to it
    const Tensor loss = sum(x * w.tensor());
    backward(loss);
    return loss;
  });
  const Tensor x = batch({3}, 1);
  std::vector<double> once;
  for (int i = 1; i <= 6; ++i) {
    step(x);
    const std::vector<double> g = numbers(w.grad());
    if (i == 1) once = g;
    for (size_t k = 0; k < g.size(); ++k) EXPECT_NEAR(g[k], once[k] * i, 1e-5) << "call " << i;
  }
  w.zero_grad();
  step(x);
  EXPECT_EQ(numbers(w.grad()), once);
}

void expect_a_number_that_differs_is_named(Device& d) {
  const DefaultDevice device(d);
  float factor = 1;
  auto step = record([&](const Tensor& x) { return x * factor + 1; });
  const Tensor x = batch({3}, 0);
  step(x);
  factor = 2;
  try {
    for (int i = 0; i < 3; ++i) step(x);
    FAIL() << "a changed number was frozen";
  } catch (const RecordError& e) {
    const std::string m = e.what();
    EXPECT_NE(m.find('1'), std::string::npos) << m;
    EXPECT_NE(m.find('2'), std::string::npos) << m;
    EXPECT_NE(m.find("record_test.cpp"), std::string::npos) << "the message names no line of the caller: " << m;
  }
}
TEST(Record, AHostNumberThatDiffersThrowsAndIsNamed) {
  expect_a_number_that_differs_is_named(cpu());
  expect_a_number_that_differs_is_named(graph_device());
}

TEST(Record, HostReadsInsideThrowAndNameTheLine) {
  uint32_t line = 0;
  const auto expect_refused = [&](auto fn) {
    auto step = record(fn);
    try {
      for (int i = 0; i < 3; ++i) step(batch({3}, i));
      ADD_FAILURE() << "line " << line << " passed";
    } catch (const RecordError& e) {
      EXPECT_EQ(e.where().line(), line) << e.what();
      EXPECT_NE(std::string(e.where().file_name()).find("record_test.cpp"), std::string::npos) << e.what();
    }
  };
  expect_refused([&](const Tensor& x) {
    line = __LINE__ + 1;
    const double read = sum(x).item();
    return x * read;
  });
  expect_refused([&](const Tensor& x) {
    line = __LINE__ + 1;
    x.to_vector<float>();
    return x;
  });
  expect_refused([&](const Tensor& x) {
    line = __LINE__ + 1;
    return x + Tensor::from(std::vector<float>{1, 2, 3}, {3});
  });
  EXPECT_NO_THROW(sum(batch({3}, 0)).item());  // outside all is well
}

TEST(Record, AStepThatDoesNotRepeatStaysEager) {
  int calls = 0;
  auto step = record([&](const Tensor& x) {
    ++calls;
    return calls % 2 ? x + 1 : exp(x);
  });
  const Tensor x = batch({3}, 0);
  for (int i = 1; i <= 6; ++i) EXPECT_EQ(difference(step(x), i % 2 ? x + 1 : exp(x)), "") << i;
  EXPECT_EQ(calls, 6);
  EXPECT_EQ(step.stats().replays, 0u);
  EXPECT_GE(step.stats().misses, 1u);
  EXPECT_FALSE(step.stats().last_miss.empty());
}

TEST(Record, WhatOutlivesTheStepIsAMiss) {
  std::vector<Tensor> kept;
  auto step = record([&](const Tensor& x) {
    const Tensor y = x * 2;
    y.value();
    kept.push_back(y + 1);
    return y;
  });
  for (int i = 0; i < 5; ++i) EXPECT_EQ(difference(step(batch({3}, i)), batch({3}, i) * 2), "");
  ASSERT_EQ(kept.size(), 5u);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(difference(kept[static_cast<size_t>(i)], batch({3}, i) * 2 + 1), "");
  EXPECT_EQ(step.stats().replays, 0u);
}

TEST(Record, OutputsAreValidUntilTheNextCall) {
  auto step = record([](const Tensor& x) { return std::vector<Tensor>{x * 2, x, sum(x)}; });
  for (int i = 0; i < 6; ++i) {
    const Tensor x = batch({5}, i);
    const auto out = step(x);
    EXPECT_EQ(difference(out[0], x * 2), "");
    EXPECT_EQ(difference(out[1], x), "");
    EXPECT_EQ(difference(out[2], sum(x)), "");
  }
  EXPECT_EQ(step.stats().replays, 4u);
}

TEST(Record, ReplaysPartThoseWhoHoldAParameter) {
  const Parameter w(batch({4}, 0));
  optim::SGD opt{{w}, {.lr = 0.1}};
  auto step = record([&](const Tensor& x) {
    const Tensor loss = sum(square(w.tensor() * x));
    backward(loss);
    opt.step();
    return loss;
  });
  for (int i = 0; i < 4; ++i) step(batch({4}, i));
  const void* home = w.value().storage->data();
  const Tensor held = w.tensor();
  const std::vector<double> before = numbers(held);
  step(batch({4}, 7));
  EXPECT_EQ(numbers(held), before);
  EXPECT_NE(numbers(w.tensor()), before);
  EXPECT_EQ(w.value().storage->data(), home);
  EXPECT_EQ(step.stats().replays, 3u);
  w.assign(batch({4}, 3));  // a load between replays is seen
  const Tensor expected = sum(square(batch({4}, 3) * batch({4}, 8)));
  EXPECT_EQ(difference(step(batch({4}, 8)), expected), "");
}

void expect_verified(Device& d) {
  const DefaultDevice device(d);
  auto plain = std::make_unique<Trainer>(), checked = std::make_unique<Trainer>();
  auto step = record([&](const Tensor& x, const Tensor& y) { return checked->step(x, y); }, {.verify = 2});
  for (int i = 0; i < 9; ++i) {
    const Tensor x = batch({4, 2, 8, 8}, i), y = classes(4, 5, i);
    alternate(*plain, [&] { plain->step(x, y); });
    alternate(*checked, [&] { step(x, y); });
    expect_equal_state(*plain, *checked, "at step " + std::to_string(i));
  }
  EXPECT_EQ(step.stats().replays, 7u);
  // A step that reads a number of its own is caught, though no launch differs.
  float bias = 0;
  const State hidden(zeros({2}));
  auto wrong = record(
      [&](const Tensor& x) {
        static_cast<float*>(hidden.value().storage->data())[0] = bias;  // behind the library's back
        return x + hidden.tensor();
      },
      {.verify = 1});
  wrong(batch({2}, 0));
  wrong(batch({2}, 0));
  bias = 5;
  EXPECT_THROW(wrong(batch({2}, 0)), RecordError);
  // So is a number that was frozen, in a result and in a State.
  double factor = 2;
  const State total(zeros({2}));
  for (const bool result : {true, false}) {
    auto frozen = record(
        [&](const Tensor& x) {
          const Tensor y = x * factor;
          if (!result) total.assign(total.tensor().detach() + y);
          return result ? y : x;
        },
        {.verify = 2});
    for (int i = 0; i < 4; ++i) frozen(batch({2}, i));
    factor += 1;
    frozen(batch({2}, 4));  // the third replay is not verified
    EXPECT_THROW(frozen(batch({2}, 5)), RecordError);
    EXPECT_EQ(frozen.stats().replays, 4u);
  }
}
TEST(Record, VerifyRunsEveryNthStepBothWays) {
  expect_verified(cpu());
  expect_verified(graph_device());
}

// 128 images of 2 x 8 x 8 with their classes.
std::vector<Tensor> data_set() { return {batch({128, 2, 8, 8}, 3), classes(128, 5, 3)}; }

TEST(DeviceBatches, EveryEpochHasEveryRowOnce) {
  for (const int64_t n : {1, 2, 3, 5, 64, 97, 1000}) {
    std::vector<int64_t> v(static_cast<size_t>(n));
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int64_t>(i);
    const Tensor ids = Tensor::from(v, {n});
    const Tensor wide = ids.to(DType::f32).reshape({n, 1, 1}) + zeros({n, 3, 0});
    DeviceBatches batches({ids, wide, ids.to(DType::u8), stack({ids, ids * 2, ids * 3}, 1)}, {.batch = 7, .seed = 3});
    std::vector<int64_t> drawn;
    while (static_cast<int64_t>(drawn.size()) < 3 * n + 7) {
      const std::vector<Tensor> out = batches.next();
      EXPECT_EQ(out[1].shape(), (Shape{7, 3, 0}));
      EXPECT_EQ(difference(out[2], out[0].to(DType::u8)), "");
      EXPECT_EQ(difference(out[3], stack({out[0], out[0] * 2, out[0] * 3}, 1)), "");
      for (const int64_t i : out[0].to_vector<int64_t>()) drawn.push_back(i);
    }
    std::vector<std::vector<int64_t>> epochs;
    for (auto at = drawn.begin(); drawn.end() - at >= n; at += n) {
      epochs.emplace_back(at, at + n);
      EXPECT_EQ(std::set<int64_t>(at, at + n).size(), static_cast<size_t>(n)) << "of " << n;
    }
    if (n > 50) {
      EXPECT_NE(epochs[0], epochs[1]);
      EXPECT_NE(epochs[0], v);
    }
  }
}

// Where row 0 stands is spread evenly, and so is who follows whom.
TEST(DeviceBatches, OrdersAreSpreadEvenly) {
  constexpr int64_t n = 10, epochs = 4000;
  std::vector<int64_t> v(n);
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<int64_t>(i);
  DeviceBatches batches({Tensor::from(v, {n})}, {.batch = n * epochs, .seed = 1});
  const std::vector<int64_t> drawn = batches.next()[0].to_vector<int64_t>();
  std::vector<int64_t> places(n * n), pairs(n * n);
  for (size_t e = 0; e < epochs; ++e)
    for (size_t i = 0; i < n; ++i) {
      const auto row = static_cast<size_t>(drawn[e * n + i]);
      ++places[row * n + i];
      if (i > 0) ++pairs[static_cast<size_t>(drawn[e * n + i - 1]) * n + row];
    }
  double chi = 0, chi_pairs = 0;
  for (size_t i = 0; i < n * n; ++i) {
    chi += std::pow(static_cast<double>(places[i]) - 400, 2) / 400;
    if (i % (n + 1)) chi_pairs += std::pow(static_cast<double>(pairs[i]) - 400, 2) / 400;
  }
  EXPECT_LT(chi, 140);        // 81 degrees of freedom: five deviations above the mean
  EXPECT_LT(chi_pairs, 160);  // about 89
  EXPECT_GT(chi, 30);
}

TEST(DeviceBatches, CanBeSoughtAndGoInOrder) {
  const std::vector<Tensor> data = data_set();
  DeviceBatches a(data, {.batch = 12, .seed = 5}), b(data, {.batch = 12, .seed = 5});
  for (int i = 0; i < 20; ++i) a.next();
  EXPECT_EQ(a.drawn(), 20);
  b.seek(20);
  EXPECT_EQ(difference(a.next()[0], b.next()[0]), "");
  DeviceBatches plain(data, {.batch = 48, .shuffle = false});
  EXPECT_EQ(plain.batches_an_epoch(), 3);
  plain.next();
  EXPECT_EQ(difference(plain.next()[1], data[1].narrow(0, 48, 48)), "");
  EXPECT_EQ(difference(plain.next()[1], cat({data[1].narrow(0, 96, 32), data[1].narrow(0, 0, 16)}, 0)), "");
}

TEST(DeviceBatches, ChecksWhatItIsGiven) {
  const std::vector<Tensor> data = data_set();
  EXPECT_THROW(DeviceBatches({}, {}), ValueError);
  EXPECT_THROW(DeviceBatches(std::vector<Tensor>(9, data[0]), {}), ValueError);
  EXPECT_THROW(DeviceBatches({data[0], Tensor()}, {}), ValueError);
  EXPECT_THROW(DeviceBatches(data, {.batch = 0}), ValueError);
  EXPECT_THROW(DeviceBatches({data[0], data[1].narrow(0, 0, 5)}, {}), ShapeError);
  EXPECT_THROW(DeviceBatches({zeros({0, 2})}, {}), ShapeError);
  EXPECT_THROW(DeviceBatches({sum(data[0])}, {}), ShapeError);
  EXPECT_THROW(DeviceBatches({data[0], data[1].to(guarded())}, {}), DeviceError);
  DeviceBatches good(data, {});
  EXPECT_THROW(good.seek(-1), ValueError);
  const auto two = [](const Tensor& x, const Tensor&) { return sum(x); };
  EXPECT_THROW(repeat(0, two, good), ValueError);
  EXPECT_THROW(repeat(
                   2, [](const Tensor& x) { return sum(x); }, good),
               ValueError);
  auto step = record([&](const Tensor& x) {
    good.seek(0);
    return x;
  });
  EXPECT_THROW(step(data[0]), RecordError);
}

// k steps a call give what k calls give, one after the other, whatever starts them.
void expect_repeats(Device& d) {
  const DefaultDevice device(d);
  constexpr int k = 3, calls = 7;
  auto single = std::make_unique<Trainer>(), repeated = std::make_unique<Trainer>();
  DeviceBatches one(data_set(), {.batch = 12, .seed = 9}), many(data_set(), {.batch = 12, .seed = 9});
  auto steps = repeat(
      k, [&](const Tensor& x, const Tensor& y) { return repeated->step(x, y); }, many);
  for (int i = 0; i < calls; ++i) {
    std::vector<Tensor> losses, norms, b;
    alternate(*single, [&] {
      for (int n = 0; n < k; ++n) {
        const std::vector<Tensor> batch = one.next(), out = single->step(batch[0], batch[1]);
        losses.push_back(out[0].detach());
        norms.push_back(out[1].detach());
      }
    });
    alternate(*repeated, [&] { b = steps(); });
    const std::string when = "after call " + std::to_string(i);
    ASSERT_EQ(b.size(), 2u);
    ASSERT_EQ(b[0].shape(), (Shape{k}));
    ASSERT_EQ(difference(b[0], stack(losses)), "") << when;
    ASSERT_EQ(difference(b[1], stack(norms)), "") << when;
    expect_equal_state(*single, *repeated, when);
    EXPECT_EQ(many.drawn(), (i + 1) * k);
  }
  EXPECT_EQ(steps.stats().replays, static_cast<uint64_t>(calls - 2)) << steps.stats().last_miss;
  EXPECT_EQ(steps.stats().misses, 0u);
}
TEST(Record, RepeatedStepsEqualSingleOnes) {
  expect_repeats(cpu());
  expect_repeats(guarded());
  EXPECT_EQ(guarded().violations(), "");
}

TEST(Record, ChecksItsOptions) {
  EXPECT_THROW(record([](const Tensor& x) { return x; }, {.warmup = 1}), ValueError);
  EXPECT_THROW(record([](const Tensor& x) { return x; }, {.lanes = -1}), ValueError);
  EXPECT_THROW(record([](const Tensor& x) { return x; }, {.verify = -1}), ValueError);
  EXPECT_THROW(record([](const Tensor& x) { return x; }, {.max_recordings = 0}), ValueError);
}

TEST(Record, EmptyAndTinySteps) {
  auto same = record([](const Tensor& x) { return x; });
  auto none = record([](const Tensor& x) { return x * 2; });
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(difference(same(batch({2}, i)), batch({2}, i)), "");
    EXPECT_EQ(none(Tensor::empty({0, 3}, DType::f32)).shape(), (Shape{0, 3}));
  }
}

}  // namespace
}  // namespace flame
