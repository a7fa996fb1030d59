// Copies of the GPU that go on beside its launches (the DataLoader's), and several GPUs in one process.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <thread>

#include "flame/device/device_scope.h"
#include "flame/device/kernel.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;
using namespace data;

TensorDataset numbered(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n) * 100);
  std::iota(x.begin(), x.end(), 0.0f);
  std::vector<int64_t> y(static_cast<size_t>(n));
  std::iota(y.begin(), y.end(), int64_t{0});
  return TensorDataset({Tensor::from(x, {n, 100}), Tensor::from(y, {n})});
}

void expect_equal_batches(Device& d, int workers) {
  const TensorDataset data = numbered(1003);
  DataLoader<2> here(data, {.batch = 64, .shuffle = true, .workers = workers}),
      there(data, {.batch = 64, .shuffle = true, .workers = workers, .prefetch = 3, .device = &d});
  for (int epoch = 0; epoch < 2; ++epoch) {
    Batch<2> a, b;
    int batches = 0;
    while (here.next(a)) {
      ASSERT_TRUE(there.next(b));
      for (size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(&b[i].device(), &d);
        EXPECT_EQ(difference(b[i].to(cpu()), a[i]), "") << "batch " << batches;
      }
      EXPECT_EQ((b[0] + 1).sum().item(), (b[0].to(cpu()) + 1).to(d).sum().item());
      ++batches;
    }
    EXPECT_FALSE(there.next(b));
    EXPECT_EQ(batches, 16);
  }
}

TEST(CudaLoader, BatchesAreThoseOfTheCpu) {
  FLAME_NEEDS_GPU(d);
  const uint64_t before = stats().uploads;
  for (int workers : {0, 1, 3}) expect_equal_batches(d, workers);
  EXPECT_EQ(stats().uploads, before + 3 * 2 * 16) << "one a batch";
  EXPECT_GT(memory_stats(d).staging, 0u);
  empty_cache(d);
  EXPECT_EQ(memory_stats(d).staging, 0u);
}

TEST(CudaLoader, ADeviceWithoutStreamsTakesBatchesToo) {
  DataLoader<2> loader(numbered(10), {.batch = 5, .device = &cpu()});
  Batch<2> b;
  ASSERT_TRUE(loader.next(b));
  EXPECT_EQ(b[1].to_vector<int64_t>(), (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

// While the launches' stream is kept busy, batches arrive in memory that no launch is using.
TEST(CudaLoader, CopiesGoOnBesideTheLaunches) {
  FLAME_NEEDS_GPU(d);
  DataLoader<2> loader(numbered(64 * 40), {.batch = 64, .workers = 1, .prefetch = 2, .device = &d});
  Batch<2> b;
  {
    std::vector<Batch<2>> held;  // so that as many buffers are there
    for (int i = 0; i < 12; ++i) {
      ASSERT_TRUE(loader.next(b));
      held.push_back(b);
    }
    b = {};
  }
  d.synchronize();
  const Ref<Kernel> spin =
      d.kernel({"spin",
                "extern \"C\" __global__ void spin(unsigned long long ns) { unsigned long long a, b; "
                "asm volatile(\"mov.u64 %0, %%globaltimer;\" : \"=l\"(a)); do { asm "
                "volatile(\"mov.u64 %0, %%globaltimer;\" : \"=l\"(b)); } while (b - a < ns); }",
                "spin",
                {},
                true});
  (*spin)({.threads = 1}, uint64_t{1'000'000'000});
  const uint64_t before = stats().uploads;
  std::vector<Batch<2>> held;
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(loader.next(b));
    held.push_back(b);
  }
  b = {};
  bool beside = false;
  for (int i = 0; i < 400 && !beside; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const DeviceLook now = look(d);
    beside = stats().uploads >= before + 4 && now.busy && !now.uploading;
  }
  EXPECT_TRUE(beside) << stats().uploads - before << " uploads";
  for (size_t i = 0; i < held.size(); ++i)
    EXPECT_EQ(held[i][1].to_vector<int64_t>()[0], static_cast<int64_t>(64 * (12 + i)));
}

Device* second_gpu(std::string& why) {
  try {
    return &device("cuda:1");
  } catch (const DeviceError& e) { why = e.what(); }
  return nullptr;
}

TEST(CudaTwo, AMissingGpuIsNamed) {
  FLAME_NEEDS_GPU(d);
  try {
    device("cuda:64");
    FAIL() << "there is no such GPU";
  } catch (const DeviceError& e) { EXPECT_NE(std::string(e.what()).find("cuda:64"), std::string::npos) << e.what(); }
  EXPECT_THROW(device("cuda:x"), DeviceError);
}

TEST(CudaTwo, CopiesComputationsAndMixtures) {
  FLAME_NEEDS_GPU(d);
  std::string why;
  Device* e = second_gpu(why);
  if (!e) GTEST_SKIP() << "one GPU: " << why;
  Generator g(3);
  const Tensor here = randn({1000, 333}, {.device = &cpu(), .generator = &g}), x = here.to(d);
  const uint64_t before = stats().device_copies, hosts = stats().host_copies;
  const Tensor y = (x * 2).to(*e);
  EXPECT_EQ(&y.device(), e);
  const Tensor z = (y + 1).to(d);
  EXPECT_EQ(stats().device_copies, before + 2);
  EXPECT_EQ(stats().host_copies, hosts);
  EXPECT_EQ(difference(z.to(cpu()), here * 2 + 1), "");
  EXPECT_THROW(x + y, DeviceError);
  EXPECT_THROW(matmul(x.t(), y), DeviceError);
  for (int i = 0; i < 50; ++i) {  // memory that is freed while copies are under way
    const Tensor there = (x + i).to(*e), back = (there - i).to(d);
    EXPECT_LT(error_of(back.to(cpu()), here.to(DType::f64)).units, 64);
  }
}

TEST(CudaTwo, AThreadAGpu) {
  FLAME_NEEDS_GPU(d);
  std::string why;
  Device* e = second_gpu(why);
  if (!e) GTEST_SKIP() << "one GPU: " << why;
  std::vector<double> results(2);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < 2; ++i)
    threads.emplace_back([&, i] {
      DeviceScope scope(i == 0 ? d : *e);
      Generator g(9);
      nn::Linear a{{.in = 64, .out = 64}};
      for (const Parameter& p : a.parameters()) p.assign(full(p.shape(), 0.01));
      optim::AdamW opt{a.parameters(), {.lr = 1e-2}};
      const Tensor x = randn({32, 64}, {.generator = &g});
      for (int step = 0; step < 20; ++step) {
        backward(square(a(x)).sum());
        opt.step();
        a.zero_grad();
      }
      results[i] = square(a(x)).sum().item();
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace flame
