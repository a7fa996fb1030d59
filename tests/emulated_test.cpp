// The emulated GPU: device texts run on the CPU agree with the CPU's own kernels, and what a text does wrong is found.
#include <gtest/gtest.h>

#include <cmath>

#include "flame/device/device_scope.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"
#include "tests/support/error.h"

namespace flame {
namespace {

using namespace test;
using emulated::EmulatedDevice;

// Each takes an array of n numbers and does one thing that a GPU would refuse, or that it would not and should.
constexpr const char* defects = R"(
extern "C" {
__global__ void correct(float* y, int n) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x < n ? y[threadIdx.x] : 0;
  __syncthreads();
  for (int by = 32; by > 0; by /= 2) {
    if (threadIdx.x < by) s[threadIdx.x] += s[threadIdx.x + by];
    __syncthreads();
  }
  if (threadIdx.x < n) y[threadIdx.x] = s[0];
}
__global__ void writes_behind(float* y, int n) { y[n] = 1; }
__global__ void writes_before(float* y, int n) { y[-1] = 1; }
__global__ void reads_behind(float* y, int n) { y[0] = y[n + 3]; }
__global__ void leaves_an_array(float* y, int n) {
  __shared__ float s[8];
  s[threadIdx.x] = 1;
  y[0] = s[n];
}
__global__ void misaligned(float* y, int n) { *reinterpret_cast<double*>(y + 1) = n; }
__global__ void misses_a_barrier(float* y, int n) {
  if (threadIdx.x < 40) __syncthreads();
  else __syncwarp();
  y[0] = n;
}
__global__ void misses_lanes(float* y, int n) {
  if (threadIdx.x < 16) y[0] = __shfl_sync(0xffffffffu, n, 0);
  else __syncthreads();
}
__global__ void mixes_up_lanes(float* y, int n) {
  if (threadIdx.x < 16) y[0] = __shfl_sync(0xffffffffu, n, 0);
  else y[1] = __ballot_sync(0xffffffffu, n);
}
__global__ void reads_nothing(float* y, int n) {
  __shared__ float s[8];
  if (n < 0) s[0] = 1;
  y[0] = s[0];
}
extern __shared__ float room[];
__global__ void leaves_its_room(float* y, int n) {
  room[threadIdx.x] = 1;
  y[0] = room[0];
}
__global__ void copies(float* y, int n) {
  __shared__ alignas(16) float s[4];
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(s))),
               "l"(y), "r"(4) : "memory");
  asm volatile("cp.async.commit_group;" ::: "memory");
  if (n > 0) asm volatile("cp.async.wait_group %0;" ::"n"(0) : "memory");
  y[1] = s[0];
}
__global__ void __launch_bounds__(32) bounded(float* y, int n) { y[0] = n; }
})";

// What the launch of an entry throws for n numbers and a block of 64 threads.
std::string met(const char* entry, int32_t n) {
  EmulatedDevice& d = emulated::emulated_device();
  const Ref<Kernel> k = d.kernel({entry, defects, entry});
  const Ref<Storage> y = make_ref<Storage>(d, sizeof(float) * static_cast<size_t>(n), Loc::current());
  try {
    (*k)({.threads = 64, .shared = 4 * n}, y->data(), n);
  } catch (const KernelError& e) { return e.text; }
  return {};
}

TEST(Emulated, FindsWhatTextsDoWrong) {
  FLAME_NEEDS_EMULATOR(d);
  EXPECT_EQ(met("correct", 5), "");
  const auto expect = [](const char* entry, int32_t n, const char* what) {
    const std::string m = met(entry, n);
    EXPECT_NE(m.find(what), std::string::npos) << entry << ": " << m;
  };
  expect("writes_behind", 5, "memory was written behind a tensor of 20 bytes: byte 0 of 12");
  expect("writes_behind", 8, "an access of memory that is not there");
  expect("writes_before", 8, "memory was written before a tensor of 32 bytes: byte 60 of 64");
  expect("reads_behind", 8, "in thread (0, 0, 0) of block (0, 0, 0)");
  expect("leaves_an_array", 8, "an index outside its array");
  expect("leaves_its_room", 63, "shared memory was written behind the 252 bytes of the launch");
  EXPECT_EQ(met("leaves_its_room", 64), "");
  expect("misaligned", 8, "a misaligned access");
  expect("misses_a_barrier", 8, "threads wait for others that do not come");
  expect("misses_lanes", 8, "for lanes ffffffff of its warp");
  expect("mixes_up_lanes", 8, "lanes meet for different things");
  expect("bounded", 8, "64 threads a block, where 32 are allowed");
  EXPECT_EQ(met("correct", 5), "") << "after errors";
}

TEST(Emulated, WhatNobodyWroteIsNotANumber) {
  FLAME_NEEDS_EMULATOR(d);
  const Ref<Storage> y = make_ref<Storage>(d, 2 * sizeof(float), Loc::current());
  (*d.kernel({"reads_nothing", defects, "reads_nothing"}))({.threads = 32}, y->data(), int32_t{2});
  float got[2];
  d.copy_to_host(got, y->data(), sizeof got);
  EXPECT_TRUE(std::isnan(got[0]) && std::isnan(got[1]));
  // A copy to shared memory that nobody waits for.
  for (const bool waits : {true, false}) {
    const float one[2] = {1, 2};
    d.copy_from_host(y->data(), one, sizeof one);
    (*d.kernel({"copies", defects, "copies"}))({.threads = 1}, y->data(), waits ? 1 : 0);
    d.copy_to_host(got, y->data(), sizeof got);
    EXPECT_EQ(got[1] == 1, waits) << got[1];
  }
}

TEST(Emulated, ErrorsOfTheCompilerAreReadable) {
  FLAME_NEEDS_EMULATOR(d);
  const std::string m = message_of<KernelError>(
      [&] { d.kernel({.name = "wrong", .text = "int a = b;", .entry = "wrong", .at_once = true}); });
  EXPECT_NE(m.find("was not declared in this scope"), std::string::npos) << m;
}

// The kernel that turns filters around a convolution of cuDNN, by the tiles that device/cuda/conv.cpp gives it.
TEST(Emulated, TurnsFilters) {
  FLAME_NEEDS_EMULATOR(d);
  auto* text = plugin_function<const char*(const char*)>("flame_cuda_text");
  if (!text) GTEST_SKIP() << "the plugin has the text";
  const Ref<Kernel> k = d.kernel({"swap_last", text("device/cuda/filter.cu"), "swap_last", {"-DFLAME_T=float"}});
  struct Case {
    int64_t outer, a, b;
    int32_t ta, tb;
  };
  for (const Case& c : {Case{3, 64, 9, 63, 9}, Case{2, 7, 130, 7, 95}, Case{1, 200, 64, 32, 63}, Case{5, 1, 1, 1, 1}}) {
    const Tensor x = arange(0, static_cast<double>(c.outer * c.a * c.b), 1, DType::f32).reshape({c.outer, c.a, c.b});
    const Tensor there = x.to(d), got = zeros({c.outer, c.b, c.a}, DType::f32, d);
    (*k)({.blocks = c.outer * ((c.a + c.ta - 1) / c.ta) * ((c.b + c.tb - 1) / c.tb)}, there.data(), got.data(), c.a,
         c.b, c.ta, c.tb);
    EXPECT_EQ(difference(got.to(cpu()), x.transpose(1, 2).contiguous()), "") << c.a << " x " << c.b;
  }
}

// The sums of columns beside a product, by the bands that device/cuda/epilogue.cpp gives them; whole numbers, so that
// they are exact.
TEST(Emulated, SumsOfColumns) {
  FLAME_NEEDS_EMULATOR(d);
  auto* text = plugin_function<const char*(const char*)>("flame_cuda_text");
  if (!text) GTEST_SKIP() << "the plugin has the text";
  constexpr int64_t band = 128;
  for (const auto& [t, spelled] : {std::pair(DType::bf16, "bhalf"), std::pair(DType::f32, "float")}) {
    const std::string type = std::string("-DFLAME_T=") + spelled,
                      wide = t == DType::bf16 ? "-DFLAME_IN_DOUBLE=0" : "-DFLAME_IN_DOUBLE=1";
    const auto kernel = [&](const char* entry) {
      KernelDesc k{.name = entry, .text = text("device/cuda/epilogue.cu"), .entry = entry};
      k.options = {"-DFLAME_RELU=0"};
      k.options.push_back(type);
      k.options.push_back(wide);
      return d.kernel(k);
    };
    const Ref<Kernel> parts_of = kernel("column_parts"), join = kernel("join_parts");
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{300, 264}, {5, 19}, {1, 1}}) {
      const Tensor x = round(randn({rows, columns}, {.dtype = DType::f32}) * 2).to(t), there = x.to(d),
                   sums = zeros({columns}, t, d);
      const int64_t bands = (rows + band - 1) / band;
      const Tensor parts = zeros({bands, columns}, t == DType::bf16 ? DType::f32 : DType::f64, d);
      (*parts_of)({.blocks = bands * ((columns + 255) / 256)}, there.data(), parts.data(), rows, columns, columns, band,
                  columns % 8 == 0);
      (*join)({.blocks = (columns + 31) / 32}, parts.data(), sums.data(), bands, columns);
      EXPECT_EQ(difference(sums.to(cpu()), x.to(DType::f64).sum({0}).to(t)), "") << rows << " x " << columns;
    }
  }
}

// Products that are added to a tensor of float32, of operands that no library takes, in place and elsewhere; whole
// numbers.
TEST(Emulated, SumsOfProducts) {
  FLAME_NEEDS_EMULATOR(d);
  auto* make = plugin_function<Plan*(Device*, const GemmDesc*)>("flame_cuda_own_gemm");
  if (!make) GTEST_SKIP() << "the plugin has the text";
  const auto meta = [](const Tensor& x) { return Meta{x.dtype(), x.shape(), x.strides()}; };
  const auto whole = [](const Shape& s, DType t) { return round(randn(s, {.dtype = DType::f32}) * 2).to(t); };
  for (const DType t : {DType::bf16, DType::f64}) {
    if (t == DType::f64 && !full()) continue;
    const DType wide = t == DType::f64 ? t : DType::f32;
    const Tensor a = whole({3, 40, 50}, t), b = whole({3, 50, 66}, t), before = whole({3, 40, 33}, wide),
                 want = matmul(a.to(DType::f64), b.to(DType::f64).slice(2, 0, 66, 2)) + before.to(DType::f64);
    const Tensor x = a.to(d), y = b.to(d).slice(2, 0, 66, 2), sum = before.to(d), apart = zeros({3, 40, 33}, wide, d);
    const GemmDesc g{.a = meta(x), .b = meta(y), .c = meta(sum), .add = true};
    const Ref<Plan> plan = Ref<Plan>::adopt(make(&d, &g));
    for (const Tensor* to : {&apart, &sum}) {
      void* const buffers[] = {x.data(), y.data(), sum.data(), to->data()};
      plan->body({buffers, nullptr, nullptr});
      EXPECT_EQ(difference(to->to(cpu()), want.to(wide)), "") << name_of(t);
      if (to == &apart) { EXPECT_EQ(difference(sum.to(cpu()), before), ""); }
    }
  }
}

// Tests of the GPU that are quick enough here; where this binary holds them.
TEST(Emulated, TestsOfTheGpu) {
  FLAME_NEEDS_EMULATOR(d);
  const Output o = run_worker("CudaDevice.OptimizersHaveTheCpusBits", "FLAME_EMULATED=1");
  EXPECT_EQ(o.status, 0) << o.text;
}

}  // namespace
}  // namespace flame
