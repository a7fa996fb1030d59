// Timed choices of algorithms: kept on disk, by library version, GPU and key; untimed where results must repeat. What the
// products and convolutions of the libraries do is counted. flame-info shows it all.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "flame/device/device_scope.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;
namespace fs = std::filesystem;

// A cache folder of its own for a test.
class CudaTuning : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("flame-tuning-" + std::to_string(getpid()));
    fs::remove_all(folder_);
    const char* before = std::getenv("FLAME_CACHE");
    before_ = before ? before : "";
    setenv("FLAME_CACHE", folder_.c_str(), 1);
  }
  void TearDown() override {
    if (before_.empty()) unsetenv("FLAME_CACHE");
    else setenv("FLAME_CACHE", before_.c_str(), 1);
    fs::remove_all(folder_);
  }
  fs::path folder_;
  std::string before_;
};

struct Times {
  std::vector<double> microseconds;       // 0: there is no memory just now
  std::vector<std::string> configs = {};  // "candidate number 0", ... if left out
  int asked = 0;
};
int choice(const char* library, const char* key, Times& t, bool forget = true) {
  auto* tune = plugin_function<int(const char*, const char*, const char*, const char* const*, int,
                                   double (*)(int, void*), void*, bool)>("flame_cuda_tune");
  if (!tune) return -1;
  for (size_t i = t.configs.size(); i < t.microseconds.size(); ++i)
    t.configs.push_back("candidate number " + std::to_string(i));
  std::vector<const char*> names;
  for (const std::string& c : t.configs) names.push_back(c.c_str());
  const auto time = [](int i, void* p) {
    auto& times = *static_cast<Times*>(p);
    ++times.asked;
    if (times.microseconds[static_cast<size_t>(i)] == 0) throw OutOfMemory("planted", Loc::current());
    return times.microseconds[static_cast<size_t>(i)];
  };
  return tune(library, "a GPU", key, names.data(), static_cast<int>(names.size()), time, &t, forget);
}
bool no_plugin() {
  std::string missing;
  return !cuda_plugin_function("flame_cuda_tune", missing);
}

TEST_F(CudaTuning, TheFastestIsChosenAndStays) {
  if (no_plugin()) GTEST_SKIP() << "the CUDA plugin is not built here";
  Times t{{5, 3, 4}};
  EXPECT_EQ(choice("library 1", "key", t), 1);
  EXPECT_EQ(t.asked, 3);
  EXPECT_EQ(choice("library 1", "key", t, false), 1) << "this process knows it";
  EXPECT_EQ(choice("library 1", "key", t), 1) << "so does the next";
  EXPECT_EQ(t.asked, 3);
  EXPECT_EQ(choice("library 2", "key", t), 1) << "another version is timed anew";
  EXPECT_EQ(t.asked, 6);
  EXPECT_EQ(choice("library 2", "another key", t), 1);
  EXPECT_EQ(t.asked, 9);
}

TEST_F(CudaTuning, TheFirstStaysUnlessAnotherIsClearlyFaster) {
  if (no_plugin()) GTEST_SKIP() << "the CUDA plugin is not built here";
  Times close{{100, 98, 99}}, failing{{-1, 7, -1}}, mixed{{100, 96, 95}};
  EXPECT_EQ(choice("library", "close", close), 0);
  EXPECT_EQ(choice("library", "failing", failing), 1);
  EXPECT_EQ(choice("library", "mixed", mixed), 2);
}

TEST_F(CudaTuning, AChoiceIsFoundByItsTextAndNotByItsPlace) {
  if (no_plugin()) GTEST_SKIP() << "the CUDA plugin is not built here";
  Times t{{5, 3, 4}, {"a", "b", "c"}}, turned{{5, 5, 5}, {"b", "c", "a"}}, without{{9, 8}, {"a", "c"}};
  EXPECT_EQ(choice("library", "key", t), 1);
  EXPECT_EQ(choice("library", "key", turned), 0) << "the list came in another order";
  EXPECT_EQ(turned.asked, 0);
  EXPECT_EQ(choice("library", "key", without), 1) << "the choice is not among them";
  EXPECT_EQ(without.asked, 2);
}

TEST_F(CudaTuning, WhereAllFailNothingIsKept) {
  if (no_plugin()) GTEST_SKIP() << "the CUDA plugin is not built here";
  Times broken{{-1, -1}}, well{{5, 3}};
  choice("library", "key", broken);
  EXPECT_FALSE(fs::exists(folder_) && fs::directory_iterator(folder_) != fs::directory_iterator());
  EXPECT_EQ(choice("library", "key", well), 1);
  EXPECT_EQ(well.asked, 2);
}

TEST_F(CudaTuning, WhatIsOutOfMemoryNowIsNoChoice) {
  if (no_plugin()) GTEST_SKIP() << "the CUDA plugin is not built here";
  Times now{{5, 0, 4}}, later{{5, 3, 4}};
  EXPECT_THROW(choice("library", "key", now), OutOfMemory);
  EXPECT_FALSE(fs::exists(folder_) && fs::directory_iterator(folder_) != fs::directory_iterator());
  EXPECT_EQ(choice("library", "key", later, false), 1);
}

// Statuses as the libraries' headers number them.
TEST(CudaLibraries, FailuresGoThroughTheDevice) {
  FLAME_NEEDS_GPU(d);
  auto* call = plugin_function<int(Device*, bool, int, int, bool)>("flame_cuda_library_call");
  const int blas_memory = 3, blas_unsupported = 15, blas_failed = 13;
  const int dnn_memory = 4004, dnn_unsupported = 3002, dnn_failed = 5000;
  for (const bool dnn : {false, true}) {
    const int memory = dnn ? dnn_memory : blas_memory, unsupported = dnn ? dnn_unsupported : blas_unsupported,
              failed = dnn ? dnn_failed : blas_failed;
    EXPECT_EQ(call(&d, dnn, memory, 0, true), 1);
    EXPECT_EQ(call(&d, dnn, memory, 1, true), 2) << "once more with the cache emptied";
    EXPECT_EQ(call(&d, dnn, memory, 1, false), 2);
    EXPECT_EQ(call(&d, dnn, unsupported, 9, false), -1);
    EXPECT_EQ(call(&d, dnn, failed, 9, false), -1) << "the device is well";
    for (const bool needed : {false, true}) try {
        call(&d, dnn, memory, 9, needed);
        ADD_FAILURE() << "no memory at all";
      } catch (const OutOfMemory& e) {
        for (const char* part : {"a planted call", "free of", "held from the driver"})
          EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
      }
    try {
      call(&d, dnn, failed, 9, true);
      ADD_FAILURE() << "failed";
    } catch (const DeviceError& e) {
      EXPECT_NE(std::string(e.what()).find("a planted call failed: CU"), std::string::npos) << e.what();
    }
  }
}

TEST_F(CudaTuning, DamagedFilesAreTimedAnewAndMissingFoldersAreNoError) {
  if (no_plugin()) GTEST_SKIP() << "the CUDA plugin is not built here";
  Times t{{5, 3}};
  choice("library", "key", t);
  ASSERT_EQ(t.asked, 2);
  for (const auto& entry : fs::directory_iterator(folder_)) {
    std::string text;
    std::getline(std::ifstream(entry.path()), text, '\0');
    text.replace(text.find("chosen 1"), 8, "chosen 0");
    std::ofstream(entry.path()) << text;
  }
  EXPECT_EQ(choice("library", "key", t), 1);
  EXPECT_EQ(t.asked, 4);
  for (const auto& entry : fs::directory_iterator(folder_)) fs::resize_file(entry.path(), 20);
  EXPECT_EQ(choice("library", "key", t), 1);
  EXPECT_EQ(t.asked, 6);
  setenv("FLAME_CACHE", "/proc/no/such/folder", 1);
  EXPECT_EQ(choice("library", "key", t), 1);
  EXPECT_EQ(choice("library", "key", t), 1);
  EXPECT_EQ(t.asked, 10);
}

TEST_F(CudaTuning, InfoSaysWhatIsThereAndWhatIsMissing) {
  const fs::path tool = fs::read_symlink("/proc/self/exe").parent_path().parent_path() / "tools/flame-info";
  if (!fs::exists(tool)) GTEST_SKIP() << "flame-info is not built here";
  std::string why;
  const bool there = gpu(why) != nullptr;
  Times t{{5.25, 3.5}};
  const bool plugin = choice("cuBLASLt 99", "gemm of a test", t) == 1;
  const Output out = run_command(tool.string());
  EXPECT_EQ(out.status, 0) << out.text;
  const auto says = [&](const std::string& part) { return out.text.find(part) != std::string::npos; };
  EXPECT_TRUE(says("threads")) << out.text;
  if (!plugin) {
    EXPECT_TRUE(says("libflame_cuda.so")) << out.text;
    return;
  }
  for (const char* part : {"driver", "device", "NVRTC", "cuBLASLt", "cuDNN", "1 tuned choices", "gemm of a test"})
    EXPECT_TRUE(says(part)) << part << " in\n" << out.text;
  EXPECT_TRUE(says(folder_.string())) << out.text;
  EXPECT_TRUE(says("         5.2 us  candidate number 0") || says("         5.3 us  candidate number 0")) << out.text;
  EXPECT_TRUE(says("*        3.5 us  candidate number 1")) << out.text;
  EXPECT_EQ(says("device cuda:0: "), there) << out.text;
  EXPECT_TRUE(there || says("missing") || says("no GPU") || says("does not start")) << out.text;
  EXPECT_NE(run_command(tool.string() + " wrong").status, 0);
}

uint64_t hash_of(const Tensor& t) {
  uint64_t h = 1469598103934665603ull;
  for (const unsigned char c : bytes(t.to(cpu()))) h = (h ^ c) * 1099511628211ull;
  return h;
}

// Products and convolutions of several dtypes; prints what was timed and a hash of all results.
TEST(DISABLED_CudaTuningWorker, Run) {
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  set_deterministic(std::getenv("FLAME_TEST_DETERMINISTIC") != nullptr);
  uint64_t h = 0;
  for (const DType t : {DType::f32, DType::bf16}) {
    Generator g(5);
    const RandomOptions o{.dtype = t, .generator = &g};
    const Tensor a = randn({96, 160}, o), w = randn({200, 160}, o), bias = randn({200}, o);
    const Tensor image = randn({4, 8, 20, 20}, o), filter = randn({16, 8, 3, 3}, o).requires_grad_(),
                 offset = randn({16}, o);
    h ^= hash_of(linear(a, w, bias)) * 3;
    h ^= hash_of(matmul(randn({6, 64, 32}, o), randn({6, 32, 48}, o))) * 5;
    const Tensor y = conv2d(image, filter, offset, {.padding = 1});
    h ^= hash_of(y.detach()) * 7;
    h ^= hash_of(grad({y}, {filter}, {.grad_outputs = {y.detach()}})[0]) * 11;
  }
  const TuningCounts c = tuning_counts();
  std::printf("worker: keys %llu candidates %llu disk %llu fused %llu hash %llx\n",
              static_cast<unsigned long long>(c.keys), static_cast<unsigned long long>(c.candidates),
              static_cast<unsigned long long>(c.from_disk), static_cast<unsigned long long>(c.fused_convolutions),
              static_cast<unsigned long long>(h));
}
struct Worker {
  unsigned long long keys = 0, candidates = 0, disk = 0, fused = 0, hash = 0;
};
Worker worker(const std::string& environment) {
  const Output out = run_worker("DISABLED_CudaTuningWorker.Run", environment);
  Worker w;
  const size_t at = out.text.find("worker: ");
  EXPECT_NE(at, std::string::npos) << out.text;
  if (at == std::string::npos) return w;
  EXPECT_EQ(std::sscanf(out.text.c_str() + at, "worker: keys %llu candidates %llu disk %llu fused %llu hash %llx",
                        &w.keys, &w.candidates, &w.disk, &w.fused, &w.hash),
            5)
      << out.text;
  return w;
}

TEST_F(CudaTuning, ASecondProcessTimesNothing) {
  FLAME_NEEDS_GPU(d);
  const std::string cache = "FLAME_CACHE=" + folder_.string();
  const Worker first = worker(cache), second = worker(cache);
  std::printf("first: %llu keys timed, %llu candidates; second: %llu timed, %llu read; %llu fused\n", first.keys,
              first.candidates, second.keys, second.disk, second.fused);
  EXPECT_GE(first.keys, 6u);
  EXPECT_GE(first.candidates, 2 * first.keys);
  EXPECT_EQ(second.keys, 0u);
  EXPECT_EQ(second.candidates, 0u);
  EXPECT_EQ(second.disk, first.keys);
  EXPECT_EQ(second.hash, first.hash) << "the same choices give the same bits";
  const Worker third = worker(cache + " FLAME_TEST_DETERMINISTIC=1"),
               fourth = worker("FLAME_TEST_DETERMINISTIC=1 " + cache + "-other");
  EXPECT_EQ(third.keys + third.disk + fourth.keys + fourth.disk, 0u) << "deterministic: the first, untimed";
  EXPECT_EQ(third.hash, fourth.hash) << "whatever the cache holds";
  fs::remove_all(folder_.string() + "-other");
}

TEST(CudaProducts, TransposedAndBatchedOperandsAreOneLaunch) {
  FLAME_NEEDS_GPU(d);
  using View = std::function<Tensor(const Tensor&)>;
  const View same = [](const Tensor& x) { return x; }, turned = [](const Tensor& x) { return x.t(); },
             heads = [](const Tensor& x) { return x.transpose(1, 2); }, heads_turned = [](const Tensor& x) {
               return x.permute({0, 2, 3, 1});
             };
  struct Case {
    const char* name;
    Shape a, b;
    const View &view_a, &view_b;
    uint64_t pointers;  // the batches need more than one stride
  };
  const Case cases[] = {
      {"plain", {64, 48}, {48, 80}, same, same, 0},
      {"transposed left", {48, 64}, {48, 80}, turned, same, 0},
      {"transposed both", {48, 64}, {80, 48}, turned, turned, 0},
      {"batch", {8, 64, 48}, {8, 48, 80}, same, same, 0},
      {"batch, transposed", {8, 48, 64}, {8, 80, 48}, turned, turned, 0},
      {"one left for all", {64, 48}, {8, 48, 80}, same, same, 0},
      {"heads in the middle", {4, 64, 6, 16}, {4, 32, 6, 16}, heads, heads_turned, 1},
      {"broadcast both ways", {4, 1, 64, 48}, {1, 6, 48, 80}, same, same, 1},
  };
  for (const DType t : {DType::f32, DType::f64, DType::bf16})
    for (const Case& c : cases) {
      Generator g(3);
      const Tensor host_a = randn(c.a, {.dtype = t, .device = &cpu(), .generator = &g}),
                   host_b = randn(c.b, {.dtype = t, .device = &cpu(), .generator = &g});
      const Tensor a = c.view_a(host_a.to(d)), b = c.view_b(host_b.to(d));
      const uint64_t before = tuning_counts().pointer_batches;
      matmul(a, b).data();
      const uint64_t launches = stats().launches;
      const Tensor out = matmul(a, b);
      out.data();
      EXPECT_EQ(stats().launches, launches + 1) << c.name << " " << name_of(t);
      EXPECT_EQ(tuning_counts().pointer_batches, before + c.pointers) << c.name << " " << name_of(t);
      const Tensor want = matmul(c.view_a(host_a).to(DType::f64), c.view_b(host_b).to(DType::f64));
      EXPECT_LT(error_of(out.to(cpu()), want).units, t == DType::bf16 ? 1.0 : 16.0) << c.name << " " << name_of(t);
    }
}

TEST(CudaProducts, Tf32IsAChoice) {
  FLAME_NEEDS_GPU(d);
  Generator g(3);
  const Tensor a = randn({512, 512}, {.device = &cpu(), .generator = &g}),
               b = randn({512, 512}, {.device = &cpu(), .generator = &g}), x = a.to(d), y = b.to(d),
               want = matmul(a.to(DType::f64), b.to(DType::f64));
  EXPECT_EQ(matmul_precision(), "highest");
  const Tensor exact = matmul(x, y);
  set_matmul_precision("high");
  const Tensor rounded = matmul(x, y), row = linear(x, y);
  set_matmul_precision("highest");
  const Tensor again = matmul(x, y);
  EXPECT_LT(error_of(exact.to(cpu()), want).units, 64);
  EXPECT_GT(error_of(rounded.to(cpu()), want).units, 256) << "tensor cores were asked for";
  EXPECT_LT(error_of(rounded.to(cpu()), want).units, 65536);
  EXPECT_GT(error_of(row.to(cpu()), linear(a.to(DType::f64), b.to(DType::f64))).units, 256);
  EXPECT_EQ(difference(again, exact), "");
  EXPECT_THROW(set_matmul_precision("medium"), ValueError);
}

TEST(CudaProducts, ConvolutionsFollowTf32) {
  FLAME_NEEDS_GPU(d);
  const auto inputs = [](DType t, Device& to) {
    Generator g(4);
    return std::vector<Tensor>{
        randn({16, 28, 28, 64}, {.device = &cpu(), .generator = &g}).to(t).to(to).permute({0, 3, 1, 2}),
        randn({64, 64, 3, 3}, {.device = &cpu(), .generator = &g}).to(t).to(to)};
  };
  // The result and both gradients, on the CPU.
  const auto all = [&](std::vector<Tensor> in) {
    for (Tensor& t : in) t.requires_grad_();
    const Tensor y = conv2d(in[0], in[1], {}, {.padding = 1});
    std::vector<Tensor> out = grad({(y * y).sum()}, in);
    out.push_back(y.detach());
    for (Tensor& t : out) t = t.contiguous().to(cpu());
    return out;
  };
  const std::vector<Tensor> want = all(inputs(DType::f64, cpu())), exact = all(inputs(DType::f32, d));
  set_matmul_precision("high");
  const std::vector<Tensor> rounded = all(inputs(DType::f32, d));
  set_matmul_precision("highest");
  const std::vector<Tensor> again = all(inputs(DType::f32, d));
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_LT(error_of(exact[i], want[i]).units, 256) << i;
    EXPECT_LT(error_of(rounded[i], want[i]).units, 65536) << i;
    EXPECT_EQ(difference(again[i], exact[i]), "") << i;
  }
  EXPECT_GT(error_of(rounded[2], want[2]).units, 512) << "tensor cores were asked for";
}

// A recorded step follows the switches too.
TEST(CudaProducts, ARecordedStepFollowsThePrecision) {
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  Generator g(3);
  const Tensor x = randn({256, 256}, {.generator = &g}), y = randn({256, 256}, {.generator = &g});
  auto step = record([](const Tensor& a, const Tensor& b) { return matmul(a, b); });
  Tensor exact;
  for (int i = 0; i < 4; ++i) exact = step(x, y).to(cpu());
  set_matmul_precision("high");
  const Tensor rounded = step(x, y).to(cpu());
  set_matmul_precision("highest");
  EXPECT_FALSE(same_bits(rounded, exact));
  const TuningCounts timed = tuning_counts();
  EXPECT_TRUE(same_bits(step(x, y).to(cpu()), exact));
  EXPECT_EQ(tuning_counts().keys, timed.keys) << "a replay times nothing";
}

// 16 bits are rounded once, with the bias in.
TEST(CudaConvolutions, BiasIsPartOfTheConvolution) {
  FLAME_NEEDS_GPU(d);
  using Conv = std::function<Tensor(const Tensor& x, const Tensor& w, const Tensor& bias)>;
  struct Case {
    const char* name;
    Shape x, w;
    Conv conv;
  };
  const auto plane = [](const Conv2dOptions& o) -> Conv {
    return [o](const Tensor& x, const Tensor& w, const Tensor& b) { return conv2d(x, w, b, o); };
  };
  const Case cases[] = {
      {"plane", {8, 32, 16, 16}, {64, 32, 3, 3}, plane({.padding = 1})},
      {"three channels", {8, 3, 16, 16}, {10, 3, 3, 3}, plane({.padding = 1})},
      {"stride and dilation", {4, 24, 16, 16}, {16, 24, 3, 3}, plane({.stride = 2, .padding = 2, .dilation = 2})},
      {"groups", {4, 32, 16, 16}, {64, 8, 3, 3}, plane({.padding = 1, .groups = 4})},
      {"a group a channel", {4, 32, 16, 16}, {32, 1, 3, 3}, plane({.padding = 1, .groups = 32})},
      {"line", {4, 16, 40}, {32, 16, 3}, [](auto& x, auto& w, auto& b) { return conv1d(x, w, b); }},
      {"volume", {2, 16, 6, 6, 6}, {24, 16, 3, 3, 3}, [](auto& x, auto& w, auto& b) { return conv3d(x, w, b); }},
  };
  for (const DType t : {DType::f32, DType::f16, DType::bf16})
    for (const Case& c : cases) {
      Generator g(3);
      const RandomOptions o{.dtype = t, .device = &cpu(), .generator = &g};
      const Tensor x = randn(c.x, o), w = randn(c.w, o), bias = randn({c.w[0]}, o);
      const uint64_t before = tuning_counts().fused_convolutions;
      const Tensor y = c.conv(x.to(d), w.to(d), bias.to(d)).to(cpu());
      const bool fused = tuning_counts().fused_convolutions > before;
      const Deviation e = error_of(y, c.conv(x.to(DType::f64), w.to(DType::f64), bias.to(DType::f64)));
      std::printf("%s, %s: %.2f roundings, bias %s\n", c.name, std::string(name_of(t)).c_str(), e.units,
                  fused ? "by cuDNN" : "by a kernel of ours");
      EXPECT_LT(e.units, t == DType::f32 ? 64 : 1.0) << c.name << " " << name_of(t);
    }
}

}  // namespace
}  // namespace flame
