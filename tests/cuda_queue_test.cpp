// Kernels that are compiled beside the program: several at a time, launched in the program's order, with errors at the next
// wait; on a GPU, the same results from an empty cache as from a full one, and no State changed by a step that cannot run.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "flame/core/format.h"
#include "flame/device/kernel.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"
#include "tests/support/error.h"

namespace flame {
namespace {

using namespace test;

// An empty cache folder for as long as it lives.
class EmptyCache {
 public:
  explicit EmptyCache(const char* name)
      : folder_(testing::TempDir() + "flame-queue-" + name + std::to_string(getpid())) {
    if (const char* before = std::getenv("FLAME_CACHE")) before_ = before;
    setenv("FLAME_CACHE", folder_.c_str(), 1);
  }
  ~EmptyCache() {
    if (before_.empty()) unsetenv("FLAME_CACHE");
    else setenv("FLAME_CACHE", before_.c_str(), 1);
    std::filesystem::remove_all(folder_);
  }
  EmptyCache(const EmptyCache&) = delete;
  EmptyCache& operator=(const EmptyCache&) = delete;
  const std::string& folder() const { return folder_; }

 private:
  std::string folder_, before_;
};

// A text that is like no other.
KernelDesc numbered(const std::string& name, int n) {
  return {name, "extern \"C\" __global__ void " + name + "(float* x) { x[0] = x[0] * 3 + " + std::to_string(n) + "; }",
          name};
}

class CudaQueueDry : public testing::Test {
 protected:
  void SetUp() override {
    later_ = plugin_function<void(Device*, std::vector<std::string>*)>("flame_cuda_dry_later");
    if (!later_) GTEST_SKIP() << "the CUDA plugin is not built here";
    device_ = &device("cuda:dry90");
    try {
      device_->kernel({.name = "probe", .text = "extern \"C\" __global__ void probe() {}", .entry = "probe"});
    } catch (const DeviceError& e) { GTEST_SKIP() << e.what(); }  // the headers are here, the compiler is not
    later_(device_, &launched_);
  }
  void TearDown() override {
    if (device_) later_(device_, nullptr);
  }
  EmptyCache cache_{"dry"};
  void (*later_)(Device*, std::vector<std::string>*) = nullptr;
  Device* device_ = nullptr;
  std::vector<std::string> launched_;
};

TEST_F(CudaQueueDry, SeveralKernelsAreCompiledAtATimeAndLaunchedInOrder) {
  std::vector<std::string> names;
  std::vector<Ref<Kernel>> kernels;
  for (int i = 0; i < 12; ++i) {
    names.push_back("numbered_" + std::to_string(i));
    kernels.push_back(device_->kernel(numbered(names.back(), i)));
    (*kernels.back())({}, static_cast<float*>(nullptr));
  }
  for (int i = 0; i < 12; i += 5) {
    (*kernels[static_cast<size_t>(i)])({}, static_cast<float*>(nullptr));
    names.push_back(names[static_cast<size_t>(i)]);
  }
  device_->synchronize();
  EXPECT_EQ(launched_, names);
  auto* most = plugin_function<int()>("flame_cuda_most_compiled_at_once");
  ASSERT_TRUE(most);
  std::printf("%d kernels were compiled at one time, on %u cores\n", most(), std::thread::hardware_concurrency());
  EXPECT_GE(most(), static_cast<int>(std::min(std::thread::hardware_concurrency(), 2u)));
}

TEST_F(CudaQueueDry, AnErrorComesAtTheNextWaitAndEndsWhatWaits) {
  const Ref<Kernel> good = device_->kernel(numbered("good", 1));
  const Ref<Kernel> bad = device_->kernel({"bad", "extern \"C\" __global__ void bad( {", "bad"});
  const Ref<Kernel> other = device_->kernel({"other", "extern \"C\" __global__ void one() {}", "another"});
  (*good)({}, 1);
  (*bad)({}, 1);
  (*good)({}, 1);
  EXPECT_NE(message_of<KernelError>([&] { device_->synchronize(); }).find("bad: the kernel does not compile"),
            std::string::npos);
  EXPECT_EQ(launched_, std::vector<std::string>{"good"});
  device_->synchronize();  // says it once
  (*good)({}, 1);
  (*other)({}, 1);
  EXPECT_THROW(device_->synchronize(), KernelError);
  EXPECT_EQ(launched_, (std::vector<std::string>{"good", "good"}));
  EXPECT_THROW(device_->kernel({.name = "mine", .text = "wrong", .entry = "mine", .at_once = true}), KernelError);
}

TEST_F(CudaQueueDry, AnErrorBelongsToTheThreadWhoseWorkItWas) {
  const Ref<Kernel> good = device_->kernel(numbered("theirs", 1));
  (*device_->kernel({"mine", "extern \"C\" __global__ void mine( {", "mine"}))({}, 1);
  std::thread([&] { EXPECT_NO_THROW(device_->synchronize()); }).join();
  EXPECT_THROW(device_->synchronize(), KernelError);
  device_->synchronize();
  (*good)({}, 1);
  device_->synchronize();
  EXPECT_EQ(launched_, std::vector<std::string>{"theirs"});
}

// The process ends while kernels are compiled.
TEST(DISABLED_CudaQueueExitWorker, Run) {
  auto* later = plugin_function<void(Device*, std::vector<std::string>*)>("flame_cuda_dry_later");
  static std::vector<std::string> launched;
  Device& d = device("cuda:dry90");
  later(&d, &launched);
  for (int i = 0; i < 20; ++i) d.kernel(numbered("at_exit_" + std::to_string(i), i));
  usleep(20'000);
  std::printf("worker ends\n");
  std::exit(0);
}
TEST_F(CudaQueueDry, AProcessMayEndMeanwhile) {
  const Output out = run_worker("DISABLED_CudaQueueExitWorker.Run", "FLAME_CACHE=" + cache_.folder());
  EXPECT_NE(out.text.find("worker ends"), std::string::npos) << out.text;
  EXPECT_EQ(out.status, 0) << out.text;
}

struct Net : nn::Module {
  nn::Conv2d conv{*this, "conv", {.in = 2, .out = 5, .kernel = 3}};
  nn::BatchNorm2d norm{*this, "norm", {.channels = 5}};
  nn::Linear head{*this, "head", {.in = 5 * 5 * 5, .out = 3}};
  Tensor forward(const Tensor& x) { return head(gelu(norm(conv(x))).flatten(1)); }
};

// Three steps; the sums of all states, to the last bit.
void train_and_print(Device& d) {
  DeviceScope scope(d);
  manual_seed(3);
  Net net;
  optim::AdamW opt{net.parameters(), {.lr = 0.01}};
  Tensor loss;
  for (int i = 0; i < 3; ++i) {
    const Tensor x = randn({6, 2, 7, 7}), y = randint(0, 3, {6});
    loss = cross_entropy(net.forward(x) + full({3}, i * 0.25), y);
    backward(loss);
    opt.step();
  }
  std::printf("sums:");
  for (const auto& [name, s] : net.state_dict()) std::printf(" %a", s.tensor().to(DType::f64).sum().item());
  std::printf(" %a; compiled %d\n", loss.item(), static_cast<int>(compiler_counts().compiled));
}
TEST(DISABLED_CudaQueueWorker, Trains) {
  FLAME_NEEDS_GPU(d);
  set_deterministic(true);  // libraries choose alike
  train_and_print(d);
}

// Between "sums:" and ";", and the number of kernels compiled.
std::pair<std::string, int> sums_of(const Output& o) {
  const size_t at = o.text.find("sums:"), end = o.text.find("; compiled ", at);
  if (end == std::string::npos) return {"", -1};
  return {o.text.substr(at, end - at), std::atoi(o.text.c_str() + end + 11)};
}

TEST(CudaQueue, AnEmptyCacheGivesTheSameBits) {
  FLAME_NEEDS_GPU(d);
  const EmptyCache cache("bits");
  const std::string folder = "FLAME_CACHE=" + cache.folder();
  const Output cold = run_worker("DISABLED_CudaQueueWorker.Trains", folder);
  const Output warm = run_worker("DISABLED_CudaQueueWorker.Trains", folder);
  std::filesystem::remove_all(cache.folder());
  const Output by_turns = run_worker("DISABLED_CudaQueueWorker.Trains", folder + " FLAME_SYNC=1");  // nothing waits
  const auto [expected, none] = sums_of(warm);
  ASSERT_NE(expected, "") << warm.text;
  EXPECT_EQ(none, 0);
  EXPECT_GT(sums_of(cold).second, 10) << cold.text;
  EXPECT_EQ(sums_of(cold).first, expected) << cold.text;
  EXPECT_GT(sums_of(by_turns).second, 10) << by_turns.text;
  EXPECT_EQ(sums_of(by_turns).first, expected) << by_turns.text;
}

// Launches a text over x as an op.
void launch_text(Device& d, const KernelDesc& desc, const Tensor& x) {
  x.data();
  const Ref<Kernel> k = d.kernel(desc);
  const Ref<Plan> plan = make_ref<Plan>(desc.name, [k](const Run& r) { (*k)({.threads = 1}, r.buffers[0]); });
  const Buffer to[] = {x.value().buffer()};
  d.launch({plan, {}, to, {}});
}

TEST(CudaQueue, WaitingLaunchesCopiesAndFillsKeepTheirOrder) {
  FLAME_NEEDS_GPU(d);
  const EmptyCache cache("order");
  for (int round = 0; round < 3; ++round) {
    const Tensor x = full({1}, 1, DType::f32, d);
    launch_text(d, numbered("times_three_" + std::to_string(round), 5), x);  // 8
    const Tensor copy = x * 1;
    copy.data();
    const Tensor host = Tensor::from(std::vector<float>{100}, {1}, d);
    launch_text(d, numbered("again_" + std::to_string(round), 2), x);  // 26
    d.fill_bytes(x.value().buffer().storage->data(), 0, 4);
    launch_text(d, numbered("last_" + std::to_string(round), 7), x);  // 7
    EXPECT_EQ((copy + host).item(), 108);
    EXPECT_EQ(x.item(), 7);
  }
}

TEST(CudaQueue, OneKernelForTwoThreads) {
  FLAME_NEEDS_GPU(d);
  const EmptyCache cache("threads");
  std::vector<Tensor> results;
  for (int i = 0; i < 4; ++i) results.push_back(full({1}, i, DType::f32, d));
  for (const Tensor& t : results) t.data();
  d.synchronize();
  const uint64_t own = compiler_counts().compiled;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] { launch_text(d, numbered("shared_by_threads", 4), results[static_cast<size_t>(i)]); });
  for (std::thread& t : threads) t.join();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(results[static_cast<size_t>(i)].item(), 3 * i + 4);
  EXPECT_EQ(compiler_counts().compiled, own + 1);
}

// Text that the compiler reads for a while before it meets the error, so that the launch is made meanwhile.
KernelDesc broken(const char* end) {
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += fmt::format("__device__ inline int f{}(int x) {{ return x * {}; }}\n", i, i);
  return {"bad", text + "extern \"C\" __global__ void bad( {" + end, "bad"};
}

TEST(CudaQueue, AKernelThatDoesNotCompileIsToldAtTheNextWaitAndChangesNoState) {
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  const EmptyCache cache("errors");
  Parameter p(full({4}, 1));
  optim::SGD opt{{p}, {.lr = 1}};
  d.synchronize();
  const Tensor x = full({1}, 1, DType::f32, d);
  launch_text(d, broken(""), x);
  p.set_grad(full({4}, 1));
  EXPECT_THROW(opt.step(), KernelError);
  EXPECT_EQ(opt.step_count(), 0);
  EXPECT_EQ(p.tensor().sum().item(), 4);
  p.set_grad(full({4}, 1));  // what was launched behind the error was not run
  opt.step();
  EXPECT_EQ(opt.step_count(), 1);
  EXPECT_EQ(p.tensor().sum().item(), 0);
  launch_text(d, broken(" }"), x);
  const std::string m = message_of<KernelError>([&] { d.synchronize(); });
  EXPECT_NE(m.find("bad: the kernel does not compile"), std::string::npos) << m;
  EXPECT_EQ((full({3}, 2.0) * 2).sum().item(), 12) << "and the device goes on";
}

// What loading needs is set aside before a launch may wait, so a full device refuses at the op, as it does without a queue.
TEST(CudaQueue, AFullDeviceRefusesAtTheOp) {
  FLAME_NEEDS_GPU(d);
  const EmptyCache cache("full");
  const Tensor x = full({1}, 1, DType::f32, d);
  EXPECT_EQ(x.item(), 1);
  int launched = 0;  // without an error
  {
    std::vector<Tensor> ballast;
    for (int64_t mib : {8192, 1024, 128, 16, 2}) try {
        for (;;) ballast.push_back(Tensor::empty({mib << 20}, DType::u8, d));
      } catch (const OutOfMemory&) {}
    try {
      for (; launched < 4; ++launched) {
        launch_text(d, numbered("when_full_" + std::to_string(launched), 1), x);
        d.synchronize();
      }
    } catch (const OutOfMemory&) {}
    std::printf("%d kernels were loaded on a full device\n", launched);
  }
  empty_cache(d);
  launch_text(d, numbered("after_full", 1), x);
  double expected = 1;
  for (int i = 0; i <= launched; ++i) expected = 3 * expected + 1;
  EXPECT_EQ(x.item(), expected) << "what was refused was not launched, what was not, was";
  EXPECT_EQ(memory_stats(d).limit, 0u);
}

}  // namespace
}  // namespace flame
