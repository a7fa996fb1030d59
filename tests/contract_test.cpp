// The contract on two devices at once: a training step of eight ops with AdamW, double backward and flat replay runs on
// the CPU and on a device that has no memory for the host and runs nothing. Both must be asked for the same launches.
#include "flame/flame.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/support/compare.h"
#include "tests/support/guarded_device.h"
#include "tests/trace_device.h"

namespace flame {
namespace {

using namespace test;

Tensor fractions(const Shape& s, int salt, Device& d) {
  std::vector<float> v(static_cast<size_t>(numel(s)));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>((i * 29 + static_cast<size_t>(salt) * 13) % 64) / 64 - 0.5f;
  return Tensor::from(v, s, d);
}

// add, exp, sum, matmul, conv2d, dropout, batch_norm and cross_entropy, on parameters of one device.
struct EightOps {
  explicit EightOps(Device& d)
      : device(d),
        filter(fractions({4, 1, 3, 3}, 1, d)),
        gain(fractions({4}, 2, d)),
        shift(fractions({4}, 3, d)),
        weight(fractions({4 * 8 * 8, 5}, 4, d)),
        mean(fractions({4}, 5, d)),
        var(fractions({4}, 6, d) + 1.0),
        images(fractions({3, 1, 8, 8}, 7, d)),
        labels(Tensor::from(std::vector<int64_t>{0, 4, 2}, {3}, d)),
        optimizer({filter, gain, shift, weight}, {.lr = 0.01}) {}

  Tensor loss(const Tensor& x, const Tensor& y) {
    Tensor h = conv2d(x, filter.tensor(), {}, {.padding = 1});
    h = batch_norm(h, mean, var, gain.tensor(), shift.tensor());
    h = dropout(exp(h * 0.1), 0.25, true, &generator) + 0.5;
    const Tensor logits = matmul(h.flatten(1), weight.tensor());
    return cross_entropy(logits, y) + sum(weight.tensor() * weight.tensor()) * 1e-3;
  }
  Tensor step(const Tensor& x, const Tensor& y) {
    const Tensor l = loss(x, y);
    backward(l);
    optimizer.step();
    return l;
  }
  // A gradient penalty: the gradient's square is differentiated again.
  Tensor penalty_step(const Tensor& x, const Tensor& y) {
    const Tensor l = loss(x, y);
    Tensor penalty = l;
    for (const Tensor& g : grad({l}, {filter.tensor(), weight.tensor()}, {.create_graph = true}))
      penalty = penalty + sum(g * g);
    backward(penalty);
    optimizer.step();
    return penalty;
  }

  Device& device;
  Parameter filter, gain, shift, weight;
  State mean, var;
  Tensor images, labels;
  Generator generator{3};
  optim::AdamW optimizer;
};

// The look at class indices exists where the host can read them.
std::vector<LoggedLaunch> comparable(std::vector<LoggedLaunch> log) {
  std::erase_if(log, [](const LoggedLaunch& l) { return l.op == "class_range"; });
  return log;
}
void expect_same(const std::vector<LoggedLaunch>& a, const std::vector<LoggedLaunch>& b, const char* what) {
  EXPECT_GT(a.size(), 5u) << what;
  EXPECT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    ASSERT_TRUE(a[i] == b[i]) << what << ": launch " << i << " is " << a[i].op << " and " << b[i].op;
}

class Contract : public ::testing::Test {
 protected:
  DefaultDevice host{cpu()};
  LoggingDevice& computing = logging_device();
  TraceDevice& tracing = trace_device();
  void SetUp() override {
    flush_pending();
    computing.take_log();
    tracing.take_log();
  }
};

TEST_F(Contract, StepsAskBothDevicesForTheSameLaunches) {
  EightOps a(computing), b(tracing);
  computing.take_log();
  tracing.take_log();
  const uint64_t reads_a = computing.host_reads(), reads_b = tracing.host_reads(), writes_b = tracing.host_writes();
  std::vector<double> losses;
  std::vector<Tensor> kept;
  for (int i = 0; i < 3; ++i) {
    kept.push_back(a.step(a.images, a.labels));
    b.step(b.images, b.labels);
    flush_pending();
    const auto log = comparable(computing.take_log());
    expect_same(log, comparable(tracing.take_log()), "step");
    std::set<std::string> ops;
    for (const LoggedLaunch& l : log) ops.insert(l.op);
    if (i == 0) {
      std::printf("a step of eight ops: %zu launches:", log.size());
      for (const LoggedLaunch& l : log) std::printf(" %s", l.op.c_str());
      std::printf("\n");
    }
  }
  EXPECT_EQ(computing.host_reads(), reads_a);
  EXPECT_EQ(tracing.host_reads(), reads_b);
  EXPECT_EQ(tracing.host_writes(), writes_b);
  for (const Tensor& l : kept) losses.push_back(l.item());
  for (double l : losses) EXPECT_TRUE(std::isfinite(l));
  EXPECT_NE(losses[2], losses[0]);
}

TEST_F(Contract, DoubleBackwardAsksBothDevicesForTheSameLaunches) {
  EightOps a(computing), b(tracing);
  a.step(a.images, a.labels);
  b.step(b.images, b.labels);
  flush_pending();
  computing.take_log();
  tracing.take_log();
  const uint64_t reads = tracing.host_reads();
  const Tensor loss = a.penalty_step(a.images, a.labels);
  b.penalty_step(b.images, b.labels);
  flush_pending();
  expect_same(comparable(computing.take_log()), comparable(tracing.take_log()), "double backward");
  EXPECT_EQ(tracing.host_reads(), reads);
  EXPECT_TRUE(std::isfinite(loss.item()));
}

TEST_F(Contract, FlatReplayAsksForTheEagerStepsLaunches) {
  EightOps a(computing), b(tracing);
  auto replay_a = record([&](const Tensor& x, const Tensor& y) { return a.step(x, y); });
  auto replay_b = record([&](const Tensor& x, const Tensor& y) { return b.step(x, y); });
  std::vector<std::vector<LoggedLaunch>> logs;
  for (int i = 0; i < 6; ++i) {
    flush_pending();
    computing.take_log();
    tracing.take_log();
    replay_a(a.images, a.labels);
    replay_b(b.images, b.labels);
    logs.push_back(comparable(computing.take_log()));
    expect_same(logs.back(), comparable(tracing.take_log()), "recorded step");
  }
  EXPECT_GE(replay_a.stats().replays, 2u) << replay_a.stats().last_miss;
  EXPECT_EQ(replay_a.stats().replays, replay_b.stats().replays);
  // A replay reads and writes places of one arena, so sizes of storages differ; the ops are the eager step's.
  const auto ops = [](const std::vector<LoggedLaunch>& log) {
    std::string s;
    for (const LoggedLaunch& l : log) s += l.op + " ";
    return s;
  };
  // An eager run that is being recorded works on copies of its two arguments.
  EXPECT_EQ(ops(logs[1]), "copy_bytes copy_bytes " + ops(logs.back()));
}

TEST_F(Contract, MixedDevicesThrow) {
  EightOps a(computing), b(tracing);
  const Tensor x = fractions({2, 2}, 1, computing), y = fractions({2, 2}, 1, tracing);
  EXPECT_THROW(x + y, DeviceError);
  EXPECT_THROW(matmul(x, y), DeviceError);
  EXPECT_THROW(cat({x, y}), DeviceError);
  EXPECT_THROW(where(x > 0, x, y), DeviceError);
  EXPECT_THROW(conv2d(a.images, b.filter.tensor(), {}, {}), DeviceError);
  EXPECT_THROW(a.filter.assign(b.filter.tensor()), DeviceError);
  EXPECT_THROW(cross_entropy(fractions({3, 5}, 1, computing), b.labels), DeviceError);
  EXPECT_EQ(x.to(tracing).device().name(), "trace");
}

}  // namespace
}  // namespace flame
