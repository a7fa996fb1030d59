// The CUDA device itself: what is missing without a GPU, memory, copies, errors, the compiler's cache, random bits, counters
// of a warm step, and the times of a process's first minute. Without a GPU all but the first two skip.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include <flame/flame.h>

#include "flame/device/device_scope.h"
#include "flame/device/kernel.h"
#include "tests/support/clipped_step.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;

double ms_of(const std::function<void()>& fn) {
  const auto start = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

TEST(CudaPlugin, AskingForAGpuSaysWhatIsMissing) {
  std::string why;
  if (gpu(why)) GTEST_SKIP() << "there is a GPU";
  EXPECT_NE(why.find("cuda:0"), std::string::npos) << why;
  EXPECT_TRUE(why.find("driver") != std::string::npos || why.find("libflame_cuda.so") != std::string::npos ||
              why.find("GPU") != std::string::npos)
      << why;
  EXPECT_EQ(&device("auto"), &cpu());
}

TEST(CudaPlugin, KernelsCompileOnceForEveryArchitecture) {
  auto* dry = plugin_function<void(int)>("flame_cuda_dry");
  if (!dry) GTEST_SKIP() << "the CUDA plugin is not built here";
  const std::string folder = testing::TempDir() + "flame-cuda-cache-" + std::to_string(getpid());
  setenv("FLAME_CACHE", folder.c_str(), 1);
  try {
    for (const int arch : {80, 89, 90, 100, 120}) {
      dry(arch);
      Device& d = device("cuda:dry" + std::to_string(arch));
      const KernelDesc k{
          "probe", "extern \"C\" __global__ void probe(float* x) { x[threadIdx.x] += N; }", "probe", {"-DN=1"}};
      const uint64_t before = compiler_counts().compiled;
      d.kernel(k);
      EXPECT_EQ(compiler_counts().compiled, before + 1) << arch;
      d.kernel(k);
      EXPECT_EQ(compiler_counts().compiled, before + 1) << "the second time it comes from the disk";
    }
    for (const auto& entry : std::filesystem::directory_iterator(folder))  // damaged entries are made anew
      std::filesystem::resize_file(entry.path(), std::filesystem::file_size(entry.path()) / 2);
    const uint64_t before = compiler_counts().compiled;
    device("cuda:dry90")
        .kernel({"probe", "extern \"C\" __global__ void probe(float* x) { x[threadIdx.x] += N; }", "probe", {"-DN=1"}});
    EXPECT_EQ(compiler_counts().compiled, before + 1);
    EXPECT_THROW(device("cuda:dry90").kernel({"bad", "extern \"C\" __global__ void bad( {", "bad"}), ValueError);
  } catch (const DeviceError& e) {  // the headers are here, the compiler is not
    unsetenv("FLAME_CACHE");
    GTEST_SKIP() << e.what();
  }
  unsetenv("FLAME_CACHE");
  std::filesystem::remove_all(folder);
}

TEST(CudaDevice, NumbersGoThereAndBack) {
  FLAME_NEEDS_GPU(d);
  std::vector<float> v(3'000'001);
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i);
  const Tensor x = Tensor::from(v, {3'000'001}, d);
  EXPECT_EQ(x.to_vector<float>(), v);
  EXPECT_EQ(x.to(cpu()).to_vector<float>(), v);
  EXPECT_EQ((x + 1).slice(0, 5, 10).to_vector<float>(), (std::vector<float>{6, 7, 8, 9, 10}));
  EXPECT_THROW(x.span<float>(), DeviceError);
  EXPECT_THROW(x + Tensor::from(v, {3'000'001}, cpu()), DeviceError);
}

TEST(CudaDevice, MemoryIsReusedCountedAndGivenBack) {
  FLAME_NEEDS_GPU(d);
  empty_cache(d);
  const MemoryStats before = memory_stats(d);
  {
    const Tensor a = Tensor::empty({1 << 20}, DType::f32, d), b = Tensor::empty({100}, DType::f32, d);
    EXPECT_GE(memory_stats(d).allocated, before.allocated + (4u << 20));
  }
  EXPECT_EQ(memory_stats(d).allocated, before.allocated);
  const uint64_t asked = stats().system_allocations;
  for (int i = 0; i < 100; ++i) Tensor::empty({1 << 20}, DType::f32, d);
  EXPECT_EQ(stats().system_allocations, asked) << "freed blocks serve again";
  empty_cache(d);
  EXPECT_LE(memory_stats(d).reserved, before.reserved + (4u << 20));
}

TEST(CudaDevice, OutOfMemoryIsCaughtAndWorkGoesOn) {
  FLAME_NEEDS_GPU(d);
  std::vector<Tensor> ballast;
  std::string message;
  try {
    for (;;) ballast.push_back(Tensor::empty({int64_t{1} << 30}, DType::f32, d));
  } catch (const OutOfMemory& e) { message = e.what(); }
  for (const char* part : {"requested", "free", "used", "largest"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
  ballast.clear();
  EXPECT_EQ((Tensor::from(std::vector<float>{1, 2}, {2}, d) * 2).to_vector<float>(), (std::vector<float>{2, 4}));
  empty_cache(d);
}

TEST(CudaDevice, RandomBitsAreThoseOfTheCpu) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::f64, DType::f16, DType::bf16})
    for (const auto& draw : std::vector<std::function<Tensor(const RandomOptions&)>>{
             [](const RandomOptions& o) { return rand({1'000'003}, o); },
             [](const RandomOptions& o) { return randn({1'000'003}, o); }}) {
      Generator a(7), b(7);
      const Tensor here = draw({.dtype = t, .device = &cpu(), .generator = &a}),
                   there = draw({.dtype = t, .device = &d, .generator = &b});
      EXPECT_EQ(difference(there, here), "") << name_of(t);
    }
  Generator a(3), b(3);
  EXPECT_EQ(difference(bernoulli({100'001}, 0.25, {.device = &d, .generator = &a}),
                       bernoulli({100'001}, 0.25, {.generator = &b})),
            "");
}

TEST(CudaDevice, ArithmeticAndSumsHaveTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::f64, DType::bf16, DType::f16})
    for (const Shape& s : {Shape{257, 1000}, Shape{3, 5000}, Shape{70'001, 9}, Shape{2'000'003}, Shape{40, 3001}}) {
      Generator g(5);
      const Tensor x = randn(s, {.dtype = t, .generator = &g}), y = rand(s, {.dtype = t, .generator = &g}) + 0.5;
      const auto work = [](const Tensor& a, const Tensor& b) {
        const Tensor z = where(a > b, a * b - a / b, maximum(a, 0.25) + sqrt(b));
        return std::vector<Tensor>{
            z, z.sum(), z.sum(Axes{0}), z.sum(Axes{-1}), amax(z, -1), z.mean(Axes{-1}, true) - z};
      };
      const std::vector<Tensor> here = work(x, y), there = work(x.to(d), y.to(d));
      for (size_t i = 0; i < here.size(); ++i)
        EXPECT_EQ(difference(there[i], here[i]), "") << name_of(t) << " " << to_string(s) << " result " << i;
    }
}

TEST(CudaDevice, SeveralThreadsCompute) {
  FLAME_NEEDS_GPU(d);
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int k = 0; k < 4; ++k)
    threads.emplace_back([&, k] {
      for (int i = 0; i < 50; ++i) {
        const Tensor x = full({1000}, k + 1.0, DType::f32, d);
        right += (x * x).sum().item() == 1000.0 * (k + 1) * (k + 1);
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(right, 200);
}

// Heavy libraries come with the first op that wants them: what a process maps after adding, and after a product.
bool maps(const char* library) {
  std::ifstream file("/proc/self/maps");
  for (std::string line; std::getline(file, line);)
    if (line.find(library) != std::string::npos) return true;
  return false;
}
TEST(DISABLED_CudaMapsWorker, Run) {
  FLAME_NEEDS_GPU(d);
  const Tensor x = ones({64, 64}).to(d);
  const double sum = (x + x).sum().item();
  std::printf("sum %g cublas %d cudnn %d\n", sum, maps("libcublas"), maps("libcudnn"));
  const double product = matmul(x, x).sum().item();
  std::printf("product %g cublas %d cudnn %d\n", product, maps("libcublasLt"), maps("libcudnn"));
}
TEST(CudaPlugin, LibrariesComeOnFirstNeed) {
  FLAME_NEEDS_GPU(d);
  const Output out = run_worker("DISABLED_CudaMapsWorker.Run");
  EXPECT_EQ(out.status, 0) << out.text;
  EXPECT_NE(out.text.find("sum 8192 cublas 0 cudnn 0"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("product 262144 cublas 1 cudnn 0"), std::string::npos) << out.text;
}

// A training step without dropout: after a warm-up it allocates and compiles nothing.
TEST(CudaDevice, AWarmStepAllocatesAndCompilesNothing) {
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  manual_seed(1);
  nn::Linear a{{.in = 64, .out = 128}}, b{{.in = 128, .out = 10}};
  std::vector<Parameter> all = a.parameters();
  for (const Parameter& p : b.parameters()) all.push_back(p);
  optim::AdamW opt{all, {.lr = 1e-3}};
  const Tensor x = randn({32, 64}), labels = randint(0, 10, {32});
  std::vector<double> losses;
  auto step = record([&](const Tensor& in, const Tensor& target) {
    Tensor loss = cross_entropy(b(relu(a(in))), target);
    backward(loss);
    opt.step();
    return loss;
  });
  for (int i = 0; i < 4; ++i) losses.push_back(step(x, labels).item());
  const uint64_t allocations = stats().system_allocations, plans = stats().plans_prepared, copies = stats().host_copies;
  const uint64_t compiled = compiler_counts().compiled, read = compiler_counts().from_disk;
  for (int i = 0; i < 20; ++i) step(x, labels);
  EXPECT_EQ(stats().system_allocations, allocations);
  EXPECT_EQ(stats().plans_prepared, plans);
  EXPECT_EQ(stats().host_copies, copies);
  EXPECT_EQ(compiler_counts().compiled, compiled);
  EXPECT_EQ(compiler_counts().from_disk, read);
  EXPECT_LT(step(x, labels).item(), losses[0]);
  EXPECT_GT(stats().replays, 15u);
}

// Five steps over tensors of several sizes give the CPU's bits.
template <class Optimizer, class Options>
void expect_equal_steps(Device& d, const char* name, const Options& o, DType t) {
  std::vector<Parameter> here, there;
  for (const Shape& s : {Shape{3}, Shape{17, 5}, Shape{}, Shape{5000}, Shape{0, 2}}) {
    Generator g(9);
    const Tensor x = randn(s, {.dtype = t, .generator = &g});
    here.emplace_back(x);
    there.emplace_back(x.to(d));
  }
  Optimizer a{here, o}, b{there, o};
  for (uint64_t step = 0; step < 5; ++step) {
    for (size_t i = 0; i < here.size(); ++i) {
      Generator g(100 + step);
      const Tensor grad = randn(here[i].shape(), {.dtype = t, .generator = &g});
      here[i].set_grad(grad);
      there[i].set_grad(grad.to(d));
    }
    a.step();
    b.step();
  }
  for (size_t i = 0; i < here.size(); ++i)
    EXPECT_EQ(difference(there[i].tensor().detach(), here[i].tensor().detach()), "")
        << name << " " << name_of(t) << " " << i;
}
TEST(CudaDevice, OptimizersHaveTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  using namespace optim;
  for (const DType t : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    expect_equal_steps<AdamW>(d, "AdamW", AdamWOptions{.amsgrad = false}, t);
    expect_equal_steps<Adam>(d, "Adam, amsgrad", AdamOptions{.weight_decay = 0.1, .amsgrad = true, .maximize = true},
                             t);
    expect_equal_steps<NAdam>(d, "NAdam", NAdamOptions{.weight_decay = 0.1}, t);
    expect_equal_steps<RAdam>(d, "RAdam", RAdamOptions{}, t);
    expect_equal_steps<Adamax>(d, "Adamax", AdamaxOptions{}, t);
    expect_equal_steps<SGD>(d, "SGD", SGDOptions{.lr = 0.1}, t);
    expect_equal_steps<SGD>(d, "SGD, Nesterov", SGDOptions{.lr = 0.1, .momentum = 0.9, .nesterov = true}, t);
    for (const double momentum : {0.0, 0.9})
      for (const bool centered : {false, true})
        expect_equal_steps<RMSprop>(d, "RMSprop", RMSpropOptions{.momentum = momentum, .centered = centered}, t);
    expect_equal_steps<Adagrad>(d, "Adagrad", AdagradOptions{}, t);
    expect_equal_steps<Lion>(d, "Lion", LionOptions{.weight_decay = 0.1}, t);
  }
}

TEST(CudaDevice, ClippingAgreesWithTheCpu) {
  FLAME_NEEDS_GPU(d);
  for (const double p : {1.0, 2.0, 3.0, HUGE_VAL}) {
    std::vector<Parameter> here, there;
    for (const Shape& s : {Shape{3}, Shape{10'000}, Shape{17, 5}}) {
      Generator g(9);
      const Tensor x = randn(s, {.generator = &g});
      here.emplace_back(x);
      there.emplace_back(x.to(d));
      here.back().set_grad(x);
      there.back().set_grad(x.to(d));
    }
    const double a = optim::clip_grad_norm(here, 0.5, {.norm_type = p}).item();
    const double b = optim::clip_grad_norm(there, 0.5, {.norm_type = p}).item();
    EXPECT_NEAR(a, b, 1e-6 * a) << p;
    for (size_t i = 0; i < here.size(); ++i) EXPECT_LT(error_of(there[i].grad(), here[i].grad()).units, 8) << p;
    optim::clip_grad_value(here, 0.01);
    optim::clip_grad_value(there, 0.01);
    for (size_t i = 0; i < here.size(); ++i) EXPECT_LT(error_of(there[i].grad(), here[i].grad()).units, 8) << p;
  }
}

TEST(CudaDevice, ClippingWithinTheStep) {
  FLAME_NEEDS_GPU(d);
  expect_clipped_steps(d);
}

TEST(CudaDevice, LongSortsAndPermutationsAreTheCpus) {
  FLAME_NEEDS_GPU(d);
  Generator g(1), h(1);
  const Tensor x = (randn({3, 70'001}, {.generator = &g}) * 100).to(DType::i32).to(DType::f32);  // with ties
  const auto a = sort(x, {.descending = true}), b = sort(x.to(d), {.descending = true});
  EXPECT_EQ(difference(b.values, a.values), "");
  EXPECT_EQ(difference(b.indices, a.indices), "");
  Generator one(4), two(4);
  EXPECT_EQ(difference(randperm(100'003, {.device = &d, .generator = &one}), randperm(100'003, {.generator = &two})),
            "");
}

// The unavoidable times of a process. Written to $FLAME_FIRST_MINUTE as JSON; meant to be the first test of a process.
TEST(CudaFirstMinute, TimesAndACapture) {
  const char* path = std::getenv("FLAME_FIRST_MINUTE");
  if (!path) GTEST_SKIP() << "FLAME_FIRST_MINUTE names no file";
  std::string why;
  const double context = ms_of([&] { gpu(why); });
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  const Tensor x = Tensor::from(std::vector<float>(128 * 128, 0.5f), {128, 128});
  Tensor y, z, c;
  const double kernel = ms_of([&] {
    y = x + 1;
    y.data();
    d.synchronize();
  });
  const double kernel_again = ms_of([&] {
    y = x * 3;
    y.data();
    d.synchronize();
  });
  const double product = ms_of([&] {
    z = matmul(y, y);
    d.synchronize();
  });
  const double product_again = ms_of([&] {
    z = matmul(y, x.t());
    d.synchronize();
  });
  const Tensor image = Tensor::from(std::vector<float>(8 * 32 * 28 * 28, 0.25f), {8, 32, 28, 28});
  const Tensor weight = Tensor::from(std::vector<float>(64 * 32 * 9, 0.125f), {64, 32, 3, 3});
  const Conv2dOptions same{.padding = 1};
  const double conv = ms_of([&] {
    c = conv2d(image, weight, {}, same);
    d.synchronize();
  });
  const double conv_again = ms_of([&] {
    c = conv2d(image, weight, {}, {.padding = 0});
    d.synchronize();
  });
  struct Work {
    const Tensor &x, &image, &weight;
    Tensor sum, product, picture;
    static void run(void* p) {
      Work& w = *static_cast<Work*>(p);
      w.sum = w.x + 2;
      w.product = matmul(w.sum, w.x);
      w.picture = conv2d(w.image, w.weight, {}, Conv2dOptions{.padding = 1});
    }
  } work{x, image, weight, {}, {}, {}};
  Work::run(&work);  // plans and memory are made before the capture
  d.synchronize();
  auto* capture = plugin_function<double(Device*, void (*)(void*), void*, int)>("flame_cuda_capture");
  ASSERT_TRUE(capture);
  const double replay = capture(&d, &Work::run, &work, 100);
  EXPECT_EQ(work.product.to_vector<float>()[0], 128 * 2.5f * 0.5f);
  EXPECT_EQ(work.picture.to_vector<float>()[(64 * 28 + 5) * 28 + 5], 32 * 9 * 0.25f * 0.125f);
  std::ofstream(path) << "{\"driver_context_ms\": " << context << ", \"first_kernel_ms\": " << kernel
                      << ", \"second_kernel_ms\": " << kernel_again << ", \"cublaslt_first_product_ms\": " << product
                      << ", \"second_product_ms\": " << product_again << ", \"cudnn_first_convolution_ms\": " << conv
                      << ", \"second_convolution_ms\": " << conv_again
                      << ", \"graph_replay_of_add_matmul_conv_us\": " << replay << "}\n";
}

}  // namespace
}  // namespace flame
