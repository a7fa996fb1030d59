// What a warm training step asks of the driver, by FLAME's counters and by CUPTI: no allocation, no module, no wait, and of
// copies only those that bring the batch. Extra ones that are planted must be seen.
#include <dlfcn.h>
#include <flame/flame.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "examples/fashion_mnist/net.h"
#include "flame/device/kernel.h"
#include "tests/cupti/counts.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;
using Counts = flame_cupti_counts;

class Counting {
 public:
  Counting() {
    const auto beside = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "libflame_cupti.so";
    library_ = dlopen(beside.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library_) {
      error = dlerror();
      return;
    }
    error = find<const char*()>("flame_cupti_start")();
    on_ = error.empty();
  }
  ~Counting() {
    if (on_) find<void()>("flame_cupti_stop")();
  }
  Counting(const Counting&) = delete;
  Counting& operator=(const Counting&) = delete;
  void reset() { find<void()>("flame_cupti_reset")(); }
  Counts read(bool flush) {
    Counts c{};
    find<void(Counts*, bool)>("flame_cupti_read")(&c, flush);
    return c;
  }
  std::string error;

 private:
  template <class F>
  F* find(const char* name) const {
    return reinterpret_cast<F*>(dlsym(library_, name));
  }
  void* library_ = nullptr;
  bool on_ = false;
};

struct Mlp : nn::Module {
  nn::Linear a{*this, "a", {.in = 64, .out = 128}}, b{*this, "b", {.in = 128, .out = 10}};
  Tensor forward(const Tensor& x) { return b(dropout(gelu(a(x)), 0.1)); }
};
struct Transformer : nn::Module {
  nn::TransformerEncoderLayer layer{*this, "layer", {.width = 64, .heads = 2, .hidden = 128, .batch_first = true}};
  nn::Linear head{*this, "head", {.in = 64, .out = 10}};
  Tensor forward(const Tensor& x) { return head(layer(x).mean(Axes{1})); }
};

class CudaCounters : public testing::Test {
 protected:
  // Trains on 64 batches of 16; counts the last ten.
  template <class N>
  void expect_quiet(Device& d, const Shape& input, DType t, bool recorded) {
    Counting cupti;
    ASSERT_EQ(cupti.error, "");
    DeviceScope scope(d);
    manual_seed(1);
    N net;
    optim::AdamW opt{net.parameters(), {.lr = 1e-3}};
    const auto eager = [&](const Tensor& x, const Tensor& y) {
      Tensor loss = cross_entropy(net.forward(x), y);
      backward(loss);
      optim::clip_grad_norm(net.parameters(), 1);
      opt.step();
      return loss;
    };
    auto replayed = record(eager);
    const auto step = [&](const Tensor& x, const Tensor& y) { return recorded ? replayed(x, y) : eager(x, y); };
    Tensor images, labels;
    {
      DeviceScope host(cpu());
      images = (rand(input) * 255).to(t);
      labels = randint(0, 10, {input[0]});
    }
    data::DataLoader<2> loader(data::TensorDataset({images, labels}), {.batch = 16, .device = &d});
    int at = 0;
    Stats before{};
    CompilerCounts compiled{};
    Tensor loss;
    for (auto& [x, y] : loader) {
      // The loader gets as far ahead as it will, and with it all of its buffers.
      if (at >= 40 && at < 54) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      if (at++ ==
          54) {  // by now the program has run ahead of the device as far as it will, and the loader has its buffers
        d.synchronize();
        before = stats();
        compiled = compiler_counts();
        cupti.reset();
      }
      loss = step(x, y);
    }
    const Counts asked = cupti.read(false);
    const Stats after = stats();
    EXPECT_EQ(after.system_allocations, before.system_allocations);
    EXPECT_EQ(after.plans_prepared, before.plans_prepared);
    EXPECT_EQ(after.host_copies, before.host_copies);
    EXPECT_EQ(compiler_counts().compiled, compiled.compiled);
    EXPECT_EQ(compiler_counts().from_disk, compiled.from_disk);
    EXPECT_EQ(asked.allocations, 0u);
    EXPECT_EQ(asked.modules, 0u);
    EXPECT_EQ(asked.synchronisations, 0u);
    if (recorded) {
      EXPECT_EQ(asked.graphs, 10u) << "a graph a step";
      EXPECT_EQ(asked.launches, 0u) << "and no kernel beside it";
      EXPECT_EQ(after.graph_launches - before.graph_launches, 10u);
    } else {
      EXPECT_EQ(asked.graphs, 0u);
      EXPECT_GE(asked.launches, after.launches - before.launches) << "CUPTI sees what is launched";
    }
    d.synchronize();
    const Counts done = cupti.read(true);
    EXPECT_GE(done.kernels, recorded ? uint64_t{100} : asked.launches);
    EXPECT_EQ(done.waits, 1u) << "the one that ends the count";
    EXPECT_EQ(done.device_to_host, 0u);
    EXPECT_LE(done.host_to_device, 10u) << "one copy brings a batch";
    EXPECT_TRUE(std::isfinite(loss.item()));
    std::printf(
        "10 %s steps: %llu launches, %llu graphs, %llu kernels, %llu fills, %llu copies to the device, %llu on it\n",
        recorded ? "recorded" : "eager", static_cast<unsigned long long>(asked.launches),
        static_cast<unsigned long long>(asked.graphs), static_cast<unsigned long long>(done.kernels),
        static_cast<unsigned long long>(done.fills), static_cast<unsigned long long>(done.host_to_device),
        static_cast<unsigned long long>(done.other_copies));
  }
};

TEST_F(CudaCounters, AWarmStepOfTheQuickstartsNetworkIsQuiet) {
  FLAME_NEEDS_GPU(d);
  for (const bool recorded : {true, false}) expect_quiet<Net>(d, {1024, 28, 28}, DType::u8, recorded);
}
TEST_F(CudaCounters, AWarmStepOfAnMlpIsQuiet) {
  FLAME_NEEDS_GPU(d);
  for (const bool recorded : {true, false}) expect_quiet<Mlp>(d, {1024, 64}, DType::f32, recorded);
}
TEST_F(CudaCounters, AWarmStepOfATransformerIsQuiet) {
  FLAME_NEEDS_GPU(d);
  for (const bool recorded : {true, false}) expect_quiet<Transformer>(d, {1024, 12, 64}, DType::f32, recorded);
}

TEST_F(CudaCounters, WhatIsPlantedIsSeen) {
  FLAME_NEEDS_GPU(d);
  Counting cupti;
  ASSERT_EQ(cupti.error, "");
  const Tensor x = full({1000}, 1, DType::f32, d);
  const std::vector<float> host(1000, 2.0f);
  x.data();
  d.copy_from_host(x.value().storage->data(), host.data(), 4000);
  empty_cache(d);
  const auto counted = [&](const std::function<void()>& fn) {
    d.synchronize();
    cupti.reset();
    fn();
    Counts c = cupti.read(false);
    d.synchronize();
    const Counts done = cupti.read(true);
    c.host_to_device = done.host_to_device;
    c.device_to_host = done.device_to_host;
    c.fills = done.fills;
    c.kernels = done.kernels;
    c.waits = done.waits - 1;
    return c;
  };
  const Counts none = counted([] {});
  for (const uint64_t n : {none.allocations, none.modules, none.synchronisations, none.launches, none.host_to_device,
                           none.device_to_host, none.fills, none.kernels, none.waits})
    EXPECT_EQ(n, 0u);
  const Counts wait = counted([&] { d.synchronize(); });
  EXPECT_EQ(wait.synchronisations, 1u);
  EXPECT_EQ(wait.waits, 1u);
  const Counts copy = counted([&] { d.copy_from_host(x.value().storage->data(), host.data(), 4000); });
  EXPECT_EQ(copy.host_to_device, 1u);
  EXPECT_EQ(copy.synchronisations, 0u);
  std::vector<float> back(1000);
  const Counts read = counted([&] { d.copy_to_host(back.data(), x.value().storage->data(), 4000); });
  EXPECT_EQ(read.device_to_host, 1u);
  EXPECT_EQ(read.synchronisations, 1u);
  EXPECT_EQ(back, host);
  const uint64_t asked = stats().system_allocations;
  const Counts memory = counted([&] { Tensor::empty({300 << 20}, DType::u8, d); });
  EXPECT_GE(memory.allocations, 1u);
  EXPECT_EQ(memory.allocations, stats().system_allocations - asked);
  empty_cache(d);
  const Ref<Kernel> k = d.kernel({.name = "planted_kernel",
                                  .text = "extern \"C\" __global__ void planted_kernel(float* x) { x[0] = 3; }",
                                  .entry = "planted_kernel",
                                  .at_once = true});
  const Counts launch = counted([&] { (*k)({.threads = 1}, x.value().storage->data()); });
  EXPECT_EQ(launch.launches, 1u);
  EXPECT_EQ(launch.kernels, 1u);
  const Counts module = counted([&] {
    d.kernel({.name = "another_kernel",
              .text = "extern \"C\" __global__ void another_kernel(float* x) { x[0] = 4; }",
              .entry = "another_kernel",
              .at_once = true});
  });
  EXPECT_EQ(module.modules, 1u);
}

}  // namespace
}  // namespace flame
