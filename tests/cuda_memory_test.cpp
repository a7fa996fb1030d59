// Memory of the GPU: every allocation of a training step fails in turn, asked of the device and of the driver, and real
// exhaustion; statistics by kind against the driver's figure, the bound on what is held, the limit, one allocation a tensor.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include "flame/device/planted.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;

Tensor pattern(const Shape& s, int salt) {
  std::vector<float> v(static_cast<size_t>(numel(s)));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>((i * 37 + static_cast<size_t>(salt) * 101) % 127) / 32 - 1.5f;
  return Tensor::from(v, s);
}

struct Cnn : nn::Module {
  nn::Conv2d conv{*this, "conv", {.in = 1, .out = 16, .kernel = 3, .padding = 1}};
  nn::BatchNorm2d norm{*this, "norm", {.channels = 16}};
  nn::Linear head{*this, "head", {.in = 16 * 14 * 14, .out = 3}};
  Tensor forward(const Tensor& x) {
    return head(dropout(max_pool2d(relu(norm(conv(x))), {.kernel = 2}).flatten(1), 0.1));
  }
  static Tensor input(int64_t batch) { return pattern({batch, 1, 28, 28}, 1); }
};
struct Block : nn::Module {
  nn::TransformerEncoderLayer layer{*this, "layer", {.width = 32, .heads = 2, .hidden = 64, .batch_first = true}};
  nn::Linear head{*this, "head", {.in = 32, .out = 3}};
  Tensor forward(const Tensor& x) { return head(layer(x).mean(Axes{1})); }
  static Tensor input(int64_t batch) { return pattern({batch, 8, 32}, 1); }
};

template <class Net>
struct Trainer {
  Generator generator{7};
  std::unique_ptr<Net> net;
  std::unique_ptr<optim::AdamW> opt;
  Tensor x, y;
  explicit Trainer(int64_t batch) : x(Net::input(batch)), y(full({batch}, 1, DType::i64)) {
    const GeneratorScope scope(generator);
    net = std::make_unique<Net>();
    opt = std::make_unique<optim::AdamW>(net->parameters(), optim::AdamWOptions{.lr = 0.01});
  }
  void step() {
    const GeneratorScope scope(generator);
    attempt([&] {
      backward(cross_entropy(net->forward(x), y));
      optim::clip_grad_norm(net->parameters(), 1);
      opt->step();
      net->zero_grad();
      flush_pending();
    });
  }
  std::vector<std::vector<double>> state() const {
    std::vector<std::vector<double>> out;
    for (const auto& [name, s] : net->state_dict()) out.push_back(numbers(s.tensor()));
    for (const auto& [name, t] : opt->state_dict()) out.push_back(numbers(t));
    const GeneratorState g = generator.state();
    out.push_back({static_cast<double>(g.seed), static_cast<double>(g.offset)});
    return out;
  }
};

class CudaFaults : public ::testing::Test {
 protected:
  void TearDown() override {
    fail_allocation(0);
    fail_driver(0, 0);
  }
};

// True if the step was refused for want of memory.
template <class Net>
bool refused(Trainer<Net>& t) {
  try {
    t.step();
  } catch (const OutOfMemory&) { return true; }
  return false;
}

// plant(n) makes the n-th allocation of the next step fail; unplant() gives whether it did.
template <class Net>
void fail_each(const char* what, int64_t batch, const std::function<void(int64_t)>& plant,
               const std::function<bool()>& unplant) {
  Trainer<Net> calm(batch), shaken(batch);
  for (int i = 0; i < 2; ++i) {
    calm.step();
    shaken.step();
  }
  const auto before = shaken.state();
  ASSERT_EQ(before, calm.state());
  calm.step();
  int64_t fired = 0;
  for (int64_t n = 1; n < 2000; ++n) {
    plant(n);
    const bool stopped = refused(shaken);
    const bool did = unplant();
    ASSERT_EQ(stopped, did) << what << ", allocation " << n;
    if (!did) break;
    ++fired;
    shaken.net->zero_grad();
    ASSERT_EQ(shaken.state(), before) << what << ", allocation " << n;
  }
  std::printf("%s: %lld allocations of a step failed in turn\n", what, static_cast<long long>(fired));
  EXPECT_GT(fired, 0);
  EXPECT_EQ(shaken.state(), calm.state()) << what;
}

template <class Net>
void fail_all(Device& d, const char* net, int64_t large) {
  DeviceScope scope(d);
  fail_each<Net>((std::string(net) + ", device level").c_str(), 4, [](int64_t n) { fail_allocation(n); },
                 [] {
                   const bool fired = allocations_until_failure() <= 0;
                   fail_allocation(0);
                   return fired;
                 });
  int64_t failed = 0;
  const auto fired = [&] { return fail_driver(0, 0) > failed; };
  fail_each<Net>((std::string(net) + ", driver level").c_str(), large,  // so that emptying the cache leaves no room
                 [&](int64_t n) {
                   empty_cache(d);
                   failed = fail_driver(n, 4);  // later tries fail too
                 },
                 fired);
  auto* direct = plugin_function<void(Device*, bool)>("flame_cuda_direct");
  ASSERT_TRUE(direct);
  direct(&d, true);
  fail_each<Net>((std::string(net) + ", driver level, one allocation a tensor").c_str(), 4,
                 [&](int64_t n) { failed = fail_driver(n, 4); }, fired);
  direct(&d, false);
}

TEST_F(CudaFaults, OfACnnStepChangeNothing) {
  FLAME_NEEDS_GPU(d);
  fail_all<Cnn>(d, "CNN", 256);
}
TEST_F(CudaFaults, OfATransformerStepChangeNothing) {
  FLAME_NEEDS_GPU(d);
  fail_all<Block>(d, "transformer block", 8192);
}

// A single refusal of the driver costs the cache and nothing else.
TEST_F(CudaFaults, OneRefusalIsTriedAgain) {
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  Trainer<Cnn> calm(256), shaken(256);
  for (int64_t n = 1; n < 100; ++n) {
    calm.step();
    empty_cache(d);
    const int64_t failed = fail_driver(n, 1);
    ASSERT_FALSE(refused(shaken)) << n;
    const bool fired = fail_driver(0, 0) > failed;
    ASSERT_EQ(shaken.state(), calm.state()) << n;
    if (!fired) {
      EXPECT_GT(n, 1);
      return;
    }
  }
  FAIL() << "the driver is asked too often";
}

TEST_F(CudaFaults, RealExhaustionChangesNothing) {
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  Trainer<Cnn> calm(512), shaken(512);
  for (int i = 0; i < 2; ++i) {
    calm.step();
    shaken.step();
  }
  const auto before = shaken.state();
  calm.step();
  int exhausted = 0;
  for (int round = 0; round < 20; ++round) {
    empty_cache(d);
    std::vector<Tensor> ballast, crumbs;
    for (int64_t mib : {8192, 1024, 128, 16, 2}) try {
        for (;;) (mib > 2 ? ballast : crumbs).push_back(Tensor::empty({mib << 20}, DType::u8, d));
      } catch (const OutOfMemory&) {}
    for (int i = 0; i < round && !crumbs.empty(); ++i) crumbs.pop_back();
    exhausted += refused(shaken);
    ballast.clear();
    crumbs.clear();
    shaken.net->zero_grad();
    ASSERT_EQ(shaken.state(), before) << "round " << round;
  }
  std::printf("%d real exhaustions\n", exhausted);
  EXPECT_EQ(exhausted, 20);
  empty_cache(d);
  shaken.step();
  EXPECT_EQ(shaken.state(), calm.state());
}

TEST(CudaMemory, StatisticsAgreeWithTheDriver) {
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  {
    Trainer<Cnn> cnn(64);
    Trainer<Block> block(64);
    auto recorded = record([&](const Tensor& x) {
      const Tensor out = cnn.net->forward(x);
      return out.sum();
    });
    for (int i = 0; i < 4; ++i) {
      cnn.step();
      block.step();
      recorded(cnn.x);
    }
    const MemoryStats s = memory_stats(d);
    EXPECT_EQ(s.tensors + s.recordings + s.workspace + s.staging, s.allocated);
    for (const size_t part : {s.tensors, s.recordings, s.workspace, s.library, s.pinned}) EXPECT_GT(part, 0u);
    EXPECT_LE(s.reserved, s.peak + s.peak / 4 + (64u << 20));
  }
  d.synchronize();
  for (int i = 0; i < 2; ++i) {
    const MemoryStats s = memory_stats(d);
    const double ours = static_cast<double>(s.reserved + s.library), drivers = static_cast<double>(look(d).driver_used);
    std::printf("reserved %zu, library %zu, the driver says %.0f\n", s.reserved, s.library, drivers);
    EXPECT_LE(std::abs(ours - drivers), 2.0 * (1 << 20));
    empty_cache(d);
  }
}

// Tensors of many sizes come and go.
TEST(CudaMemory, WhatIsHeldStaysNearThePeak) {
  FLAME_NEEDS_GPU(d);
  empty_cache(d);
  reset_peak_memory(d);
  uint64_t random = 1;
  const auto next = [&](uint64_t n) {
    random = random * 6364136223846793005ull + 1442695040888963407ull;
    return (random >> 33) % n;
  };
  std::vector<Tensor> live(40);
  for (int i = 0; i < 4000; ++i) {
    const int64_t bytes = int64_t{1} << next(27);
    live[next(live.size())] =
        Tensor::empty({bytes + static_cast<int64_t>(next(static_cast<uint64_t>(bytes) + 1))}, DType::u8, d);
    const MemoryStats s = memory_stats(d);
    ASSERT_LE(s.reserved, s.peak + s.peak / 4 + (64u << 20)) << i;
  }
  for (int64_t mib = 10; mib < 2000; mib += 90) {  // each larger than all before
    Tensor::empty({mib << 20}, DType::u8, d);
    const MemoryStats s = memory_stats(d);
    ASSERT_LE(s.reserved, s.peak + s.peak / 4 + (64u << 20)) << mib;
  }
  live.clear();
  empty_cache(d);
}

TEST(CudaMemory, ALimitIsKept) {
  FLAME_NEEDS_GPU(d);
  empty_cache(d);
  set_memory_limit(d, memory_stats(d).reserved + (128u << 20));
  EXPECT_EQ(Tensor::empty({64 << 20}, DType::u8, d).numel(), 64 << 20);
  std::string message;
  try {
    Tensor::empty({256 << 20}, DType::u8, d);
  } catch (const OutOfMemory& e) { message = e.what(); }
  EXPECT_NE(message.find("allowed"), std::string::npos) << message;
  EXPECT_LE(memory_stats(d).reserved, memory_stats(d).limit);
  set_memory_limit(d, 0);
  EXPECT_EQ(Tensor::empty({256 << 20}, DType::u8, d).numel(), 256 << 20);
  EXPECT_THROW(set_memory_limit(cpu(), 1), NotImplemented);
  empty_cache(d);
}

TEST(CudaMemory, OneDriverAllocationATensor) {
  FLAME_NEEDS_GPU(d);
  auto* direct = plugin_function<void(Device*, bool)>("flame_cuda_direct");
  ASSERT_TRUE(direct);
  direct(&d, true);
  const uint64_t asked = stats().system_allocations;
  const size_t held = memory_stats(d).reserved;
  {
    const Tensor a = Tensor::empty({100}, DType::u8, d), b = Tensor::empty({7}, DType::f32, d);
    EXPECT_EQ(stats().system_allocations, asked + 2);
    EXPECT_EQ(memory_stats(d).reserved, held + 128);
  }
  EXPECT_EQ(memory_stats(d).reserved, held);
  direct(&d, false);
}

}  // namespace
}  // namespace flame
