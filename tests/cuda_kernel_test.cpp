// Kernels of a user's own: compiling and its errors without a GPU, launches, arguments, gradients and recording with one.
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>

#include <flame/flame.h>

#include "flame/device/device_scope.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"
#include "tests/support/error.h"

namespace flame {
namespace {

using namespace test;

constexpr const char* scale_text = R"(
extern "C" __global__ void scale(const float* x, float* y, float by, long long n) {
  const long long i = flame::global_thread();
  if (i < n) y[i] = by * x[i];
})";
const CudaKernel scale(scale_text, "scale");

TEST(CudaCustomKernel, TheCpuRunsNone) {
  const Tensor x = ones({5});
  const std::string m = message_of<NotImplemented>([&] { scale({}, x, KernelOutput{{5}}, 2.0f, x.numel()); });
  EXPECT_EQ(m.find("scale: a CUDA kernel runs on a GPU alone"), 0u) << m;
  EXPECT_NE(m.find("cuda_kernel_test.cpp"), std::string::npos) << m;
  EXPECT_THROW(scale({.device = &cpu()}, KernelOutput{{5}}), NotImplemented);
  EXPECT_THROW(CudaKernel("", "scale"), ValueError);
  EXPECT_THROW(CudaKernel(scale_text, ""), ValueError);
  for (const KernelLaunch& bad : {KernelLaunch{.blocks = 0}, KernelLaunch{.threads = 1025}, KernelLaunch{.y = 65536},
                                  KernelLaunch{.threads = 512, .threads_y = 3}, KernelLaunch{.shared = -1}})
    EXPECT_THROW(scale(bad, x, KernelOutput{{5}}, 2.0f, x.numel()), ValueError);
  EXPECT_THROW(scale({}, Tensor(), KernelOutput{{5}}, 2.0f, x.numel()), ValueError);
  EXPECT_THROW(scale({}, x, KernelOutput{{-5}}, 2.0f, x.numel()), ShapeError);
}

// The log names lines of the user's own text, and the error the line of the program where the kernel stands.
TEST(CudaCustomKernel, ErrorsOfTheCompilerAreReadable) {
  auto* dry = plugin_function<void(int)>("flame_cuda_dry");
  if (!dry) GTEST_SKIP() << "the CUDA plugin is not built here";
  dry(90);
  Device& d = device("cuda:dry90");
  const CudaKernel wrong("extern \"C\" __global__ void wrong(float* y) {\n  const int a = 1;\n  y[a] = z;\n}", "wrong");
  try {
    const std::string m = message_of<ValueError>([&] { wrong({.device = &d}, KernelOutput{{5}}); });
    EXPECT_NE(m.find("wrong.cu(3): error: identifier \"z\" is undefined"), std::string::npos) << m;
    EXPECT_NE(m.find("cuda_kernel_test.cpp:" + std::to_string(__LINE__ - 4)), std::string::npos) << m;
    EXPECT_EQ(m.find("wrong.cu(4)"), std::string::npos) << m;
    const Tensor x = ones({5}).to(d);
    EXPECT_EQ(scale({}, x, KernelOutput{{5}}, 2.0f, x.numel()).shape(), Shape{5});
  } catch (const DeviceError& e) { GTEST_SKIP() << e.what(); }  // the headers are here, the compiler is not
}

TEST(CudaCustomKernel, TakesTensorsViewsNumbersAndStructs) {
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  const Tensor x = arange(0, 12, 1, DType::f32).reshape({3, 4});
  const KernelLaunch at{.blocks = blocks_over(12)};
  EXPECT_EQ(difference(scale(at, x, KernelOutput{x.shape()}, 2.0f, x.numel()), x * 2), "");
  EXPECT_EQ(difference(scale(at, x.t(), KernelOutput{{4, 3}}, 2.0f, x.numel()), x.t() * 2), "") << "made contiguous";
  EXPECT_EQ(difference(scale(at, x + 1, KernelOutput{x.shape()}, 2.0f, x.numel()), (x + 1) * 2), "") << "pending";

  struct Weights {
    double a;
    float b[3];
    int8_t c;
  };
  const CudaKernel many(R"(
struct Weights { double a; float b[3]; signed char c; };
extern "C" __global__ void many(flame::View<float> x, bool flag, Weights w, double* sums, const flame::half* h, int* shape,
                                int* untouched) {
  extern __shared__ float own[];
  const int i = threadIdx.x, j = threadIdx.y;
  own[i * blockDim.y + j] = x(i, j);
  __syncthreads();
  if (i == 0) {
    double s = w.a + w.b[2] + w.c + (flag ? 1000 : 0) + flame::widen(h[j]);
    for (int k = 0; k < blockDim.x; ++k) s += own[k * blockDim.y + j];
    sums[j] = s;
    shape[j] = x.shape[j % x.rank] + (x[x.numel() - 1] == x(3, 2) ? 100 : 0);
  }
})",
                        "many");
  const Tensor h = arange(0, 3, 1, DType::f32).to(DType::f16);
  const auto [sums, shape, untouched] =
      many({.threads = 4, .threads_y = 3, .shared = 48}, KernelView{x.t()}, true, Weights{0.5, {1, 2, 3}, 7},
           KernelOutput{{3}, DType::f64}, h, KernelOutput{{3}, DType::i32}, KernelOutput{{2}, DType::i32, true});
  EXPECT_EQ(sums.to_vector<double>(), (std::vector<double>{1016.5, 1033.5, 1050.5}));
  EXPECT_EQ(shape.to_vector<int32_t>(), (std::vector<int32_t>{104, 103, 104}));
  EXPECT_EQ(untouched.to_vector<int32_t>(), (std::vector<int32_t>{0, 0}));
}

TEST(CudaCustomKernel, WrongCallsAreRefused) {
  FLAME_NEEDS_GPU(d);
  const Tensor x = ones({5}).to(d), here = ones({5});
  const std::string m = message_of<ValueError>([&] { scale({}, x, KernelOutput{{5}}, 2.0f); });
  EXPECT_NE(m.find("scale: the kernel's parameters are 32 bytes, the arguments 20"), std::string::npos) << m;
  EXPECT_NE(m.find("cuda_kernel_test.cpp"), std::string::npos) << m;
  const CudaKernel two("extern \"C\" __global__ void two(const float*, const float*, float*) {}", "two");
  EXPECT_THROW(two({}, x, here, KernelOutput{{5}}), DeviceError);
  const std::string name =
      message_of<ValueError>([&] { CudaKernel(scale_text, "other")({.device = &d}, KernelOutput{{5}}); });
  EXPECT_NE(name.find("no extern \"C\" __global__ function 'other'"), std::string::npos) << name;
  Tensor leaf = x;
  leaf.requires_grad_();
  EXPECT_THROW(scale({}, leaf, KernelOutput{{5}}, 2.0f, x.numel()), NotDifferentiable);
  EXPECT_EQ(no_grad([&] { return scale({}, leaf, KernelOutput{{5}}, 2.0f, x.numel()); }).sum().item(), 10);
}

TEST(CudaCustomKernel, HasAGradientAndIsRecorded) {
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  const auto scaled = [](const Tensor& x) {
    const Function f{.forward =
                         [](FunctionContext&, const std::vector<Tensor>& in) {
                           const Tensor& x = in[0];
                           return std::vector<Tensor>{scale({}, x, KernelOutput{x.shape()}, 3.0f, x.numel())};
                         },
                     .backward =
                         [](const FunctionContext&, const std::vector<Tensor>& g) {
                           return std::vector<Tensor>{scale({}, g[0], KernelOutput{g[0].shape()}, 3.0f, g[0].numel())};
                         },
                     .name = "scaled"};
    return apply(f, {x})[0];
  };
  Parameter w(ones({7}));
  optim::SGD opt{{w}, {.lr = 0.5}};
  auto step = record([&](const Tensor& x) {
    Tensor loss = sum(scaled(w.tensor()) * x);
    backward(loss);
    opt.step();
    return loss;
  });
  for (int i = 0; i < 5; ++i) EXPECT_EQ(step(full({7}, 2.0)).item(), 7 * 3 * 2 * (1 - i * 3.0)) << i;
  EXPECT_GT(stats().replays, 0u);
}

TEST(CudaCustomKernel, TheExampleOfThePageRuns) {
  FLAME_NEEDS_GPU(d);
  (void)d;
  const std::string program = FLAME_BINARY_DIR "/examples/custom_kernel";
  const std::string beside =
      std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "examples/custom_kernel";
  FILE* out = popen((std::filesystem::exists(program) ? program : beside).c_str(), "r");
  ASSERT_TRUE(out);
  std::string text;
  for (char part[256]; std::fgets(part, sizeof part, out);) text += part;
  EXPECT_EQ(pclose(out), 0) << text;
  for (const char* expected : {"the gradient is right", "wrong.cu(2): error", "main.cpp:"})
    EXPECT_NE(text.find(expected), std::string::npos) << text;
}

}  // namespace
}  // namespace flame
