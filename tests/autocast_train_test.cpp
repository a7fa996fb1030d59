// Training under autocast: curves near float32's, recorded steps equal to eager ones, no casts of weights, checkpoints and
// failures.
#include <gtest/gtest.h>

#include "flame/autograd/node.h"
#include "flame/device/planted.h"
#include "flame/tensor/internal.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;
constexpr DType half = DType::bf16;

struct Block : nn::Module {
  using Module::Module;
  nn::Linear up{*this, "up", {.in = 16, .out = 32}}, down{*this, "down", {.in = 32, .out = 16}};
  nn::LayerNorm norm{*this, "norm", {.normalized = {16}}};
  Tensor forward(const Tensor& x) { return x + down(gelu(up(norm(x)))); }
};
struct Transformer : nn::Module {
  nn::Embedding embedding{*this, "embedding", {.count = 11, .width = 16}};
  nn::TransformerEncoderLayer layer{
      *this, "layer", {.width = 16, .heads = 2, .hidden = 32, .dropout = 0, .batch_first = true}};
  Block block{*this, "block"};
  nn::Linear head{*this, "head", {.in = 16, .out = 11}};
  Tensor forward(const Tensor& x) { return head(block.forward(layer(embedding(x)))); }
};
struct Cnn : nn::Module {
  nn::Conv2d conv{*this, "conv", {.in = 1, .out = 8, .kernel = 3, .padding = 1}};
  nn::BatchNorm2d norm{*this, "norm", {.channels = 8}};
  nn::Linear head{*this, "head", {.in = 8 * 4 * 4, .out = 5}};
  Tensor forward(const Tensor& x) { return head(max_pool2d(relu(norm(conv(x))), {.kernel = 2}).flatten(1)); }
};

template <class N>
struct Trainer {
  Generator generator{5};
  std::unique_ptr<N> net;
  std::unique_ptr<optim::AdamW> opt;
  std::optional<DType> scope;
  explicit Trainer(std::optional<DType> t, Device& d = cpu()) : scope(t) {
    const GeneratorScope numbers(generator);
    const DeviceScope on(d);
    net = std::make_unique<N>();
    opt = std::make_unique<optim::AdamW>(net->parameters(), optim::AdamWOptions{.lr = 5e-3});
  }
  Tensor step(const Tensor& x, const Tensor& y) {
    Tensor loss;
    {
      const AutocastScope amp(scope);
      const Tensor z = net->forward(x);
      loss = z.rank() == 3 ? cross_entropy(z.reshape({-1, z.shape().back()}), y.flatten()) : cross_entropy(z, y);
    }
    backward(loss);
    opt->step({.max_norm = 1});
    return loss;
  }
  std::vector<std::vector<unsigned char>> state() const {
    std::vector<std::vector<unsigned char>> out;
    for (const auto& [name, s] : net->state_dict()) out.push_back(bytes(s.tensor()));
    for (const auto& [name, t] : opt->state_dict()) out.push_back(bytes(t));
    return out;
  }
};
// A copying task, and pictures of five brightnesses.
template <class N>
std::pair<Tensor, Tensor> batch(int step, Device& d = cpu()) {
  Generator g(static_cast<uint64_t>(step) + 100);
  if constexpr (std::is_same_v<N, Transformer>) {
    const Tensor x = randint(0, 11, {8, 6}, {.device = &cpu(), .generator = &g});
    return {x.to(d), remainder(x * 3 + 1, 11).to(d)};
  } else {
    const Tensor y = randint(0, 5, {16}, {.device = &cpu(), .generator = &g});
    const Tensor noise = normal({16, 1, 8, 8}, 0, 0.3, {.device = &cpu(), .generator = &g});
    return {(noise + y.to(DType::f32).reshape({16, 1, 1, 1}) * 0.5 - 1).to(d), y.to(d)};
  }
}

template <class N>
void expect_curve_near(Device& d, DType t, double most) {
  Trainer<N> exact({}, d), mixed(t, d);
  double apart = 0, first = 0, last = 0;
  for (int i = 0; i < 50; ++i) {
    const auto [x, y] = batch<N>(i, d);
    const double a = exact.step(x, y).item(), b = mixed.step(x, y).item();
    apart = std::max(apart, std::abs(a - b));
    if (i < 5) first += b / 5;
    if (i >= 45) last += b / 5;
  }
  EXPECT_LT(apart, most);
  EXPECT_LT(last, 0.5 * first);
  std::printf("  50 steps in %s: losses at most %.4f apart from float32's, from %.3f to %.3f\n", name_of(t).data(),
              apart, first, last);
  for (const Parameter& p : mixed.net->parameters()) EXPECT_EQ(p.dtype(), DType::f32);
}
TEST(Autocast, CurvesAreNearFloat32s) {
  for (const DType t : {DType::bf16, DType::f16}) {
    expect_curve_near<Transformer>(cpu(), t, 0.1);
    expect_curve_near<Cnn>(cpu(), t, 0.1);
  }
}

template <class N>
void expect_recorded_equals_eager(Device& d) {
  Trainer<N> eager(half, d), recorded(half, d);
  auto step = record([&](const Tensor& x, const Tensor& y) { return recorded.step(x, y); });
  for (int i = 0; i < 12; ++i) {
    const auto [x, y] = batch<N>(i, d);
    const Tensor a = eager.step(x, y), b = step(x, y);
    ASSERT_EQ(bytes(a), bytes(b)) << i;
    ASSERT_EQ(eager.state(), recorded.state()) << i;
    if (i == 7) {  // weights come from elsewhere between two replays
      const auto other = std::make_unique<N>();
      recorded.net->load_state(other->state_dict());
      eager.net->load_state(other->state_dict());
    }
  }
  EXPECT_EQ(step.stats().replays, 10u) << step.stats().last_miss;
  EXPECT_EQ(step.stats().misses, 0u);
}
TEST(Autocast, RecordedStepsEqualEagerOnes) {
  expect_recorded_equals_eager<Transformer>(cpu());
  expect_recorded_equals_eager<Cnn>(cpu());
}

TEST(Autocast, ARecordingKnowsItsScope) {
  const Parameter w(uniform({3, 3}, -1, 1));
  auto step = record([&](const Tensor& x) { return matmul(x, w) * 1; });
  const Tensor x = uniform({2, 3}, -1, 1);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(step(x).dtype(), DType::f32);
    EXPECT_EQ(autocast(half, [&] { return step(x); }).dtype(), half);
  }
  EXPECT_EQ(step.stats().recordings, 2u);
  EXPECT_EQ(step.stats().replays, 4u);
}

// No launch of a warm step casts a weight: the optimizer writes them in 16 bits.
template <class N>
void expect_no_casts_of_weights(Device& d) {
  Trainer<N> t(half, d);
  for (int i = 0; i < 3; ++i) {
    const auto [x, y] = batch<N>(i, d);
    t.step(x, y).data();
  }
  const auto [x, y] = batch<N>(3, d);
  for (const Tensor& in : {x, y}) in.data();
  const Stats before = stats();
  t.step(x, y).data();
  const uint64_t fresh = stats().launches - before.launches;
  for (const Parameter& p : t.net->parameters()) p.assign(p.tensor().detach() * 1);
  size_t used = 0;
  for (const Parameter& p : t.net->parameters()) used += p.value().cell->shadows[1].cell ? 1 : 0;
  EXPECT_GT(used, 3u);
  const Stats again = stats();
  t.step(x, y).data();
  EXPECT_EQ(stats().launches - again.launches, fresh + used);  // a control
}
TEST(Autocast, AWarmStepCastsNoWeight) {
  expect_no_casts_of_weights<Transformer>(cpu());
  expect_no_casts_of_weights<Cnn>(cpu());
}

TEST(Autocast, CheckpointsRunAgainInTheirScope) {
  const auto gradients = [](bool again, bool inside) {
    Generator g(3);
    const GeneratorScope numbers(g);
    Block block;
    const Tensor x = uniform({4, 16}, -1, 1);
    std::optional<AutocastScope> amp(std::in_place, half);
    const auto fn = [&](const Tensor& t) { return block.forward(t); };
    const Tensor y = again ? checkpoint(fn, checkpoint(fn, x)) : fn(fn(x));
    if (!inside) amp.reset();
    backward(sum(y * y));
    std::vector<std::vector<unsigned char>> out{bytes(y)};
    for (const Parameter& p : block.parameters()) out.push_back(bytes(p.grad()));
    return out;
  };
  const auto want = gradients(false, false);
  EXPECT_EQ(gradients(true, false), want);
  EXPECT_EQ(gradients(true, true), want);
  EXPECT_EQ(gradients(false, true), want);
}

TEST(Autocast, NoMemoryLeavesAStepAsItWas) {
  const auto [x, y] = batch<Transformer>(0);
  Trainer<Transformer> calm(half), shaken(half);
  calm.step(x, y);
  const auto before = shaken.state();
  int failures = 0;
  for (int64_t n = 1; n < 3000; ++n) {
    bool refused = false;
    fail_allocation(n);
    try {
      attempt([&] { shaken.step(x, y); });
    } catch (const OutOfMemory&) { refused = true; }
    fail_allocation(0);
    if (!refused) break;
    ++failures;
    ASSERT_EQ(shaken.state(), before) << n;
    for (const Parameter& p : shaken.net->parameters()) {
      const Shadow& s = p.value().cell->shadows[1];
      if (s.fresh) { ASSERT_EQ(bytes(Tensor(s.cell->value)), bytes(p.tensor().detach().to(half))) << n; }
    }
  }
  EXPECT_GT(failures, 100);
  std::printf("  %d allocations of an autocast step failed in turn\n", failures);
  EXPECT_EQ(shaken.state(), calm.state());
}

TEST(CudaAutocast, CurvesAreNearFloat32s) {
  FLAME_NEEDS_GPU(d);
  expect_curve_near<Transformer>(d, half, 0.1);
  expect_curve_near<Cnn>(d, half, 0.1);
}
TEST(CudaAutocast, RecordedStepsEqualEagerOnes) {
  FLAME_NEEDS_GPU(d);
  set_deterministic(true);
  expect_recorded_equals_eager<Transformer>(d);
  expect_recorded_equals_eager<Cnn>(d);
  set_deterministic(false);
}
TEST(CudaAutocast, AWarmStepCastsNoWeight) {
  FLAME_NEEDS_GPU(d);
  expect_no_casts_of_weights<Transformer>(d);
  expect_no_casts_of_weights<Cnn>(d);
}

}  // namespace
}  // namespace flame
