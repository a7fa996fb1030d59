// Errors that come late: a kernel that writes outside its memory is named at the next wait, or at its op with FLAME_SYNC=1;
// the device stays unusable and the CPU goes on. Each in a process of its own. Also the defects that sanitizers must see.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include "flame/device/kernel.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;

// Launches `entry` of `text` over x as one op.
void launch_text(Device& d, const char* entry, const char* text, const Tensor& x, const Grid& g = {}) {
  x.data();
  const Ref<Kernel> k = d.kernel({entry, text, entry});
  const Ref<Plan> plan = make_ref<Plan>(entry, [k, g](const Run& r) { (*k)(g, r.buffers[0]); });
  const Buffer to[] = {x.value().buffer()};
  d.launch({plan, {}, to, {}});
}

TEST(DISABLED_CudaErrorWorker, Run) {
  FLAME_NEEDS_GPU(d);
  const Tensor x = full({1000}, 2, DType::f32, d);
  EXPECT_EQ((x * 2).sum().item(), 4000);
  std::string first, second;
  const char* where = "nowhere";
  try {
    launch_text(d, "planted_write", "extern \"C\" __global__ void planted_write(float* x) { x[1ll << 40] = 1; }", x);
    where = "later";
    for (int i = 0; i < 5; ++i) (x + i).data();
    (x * 3).to_vector<float>();
  } catch (const DeviceError& e) {
    if (std::string(where) == "nowhere") where = "at the op";
    first = e.what();
  }
  try {
    (x + 1).to_vector<float>();
  } catch (const DeviceError& e) { second = e.what(); }
  const bool cpu_works = (full({10}, 2.0, DType::f32, cpu()) * 3).sum().item() == 60;
  std::printf("worker: %s | %s | %s | cpu %d\n", where, first.c_str(), second.c_str(), cpu_works);
  std::fflush(stdout);
  std::_Exit(0);
}

TEST(CudaErrors, AreNamedAtTheNextWait) {
  FLAME_NEEDS_GPU(d);
  const Output out = run_worker("DISABLED_CudaErrorWorker.Run");
  EXPECT_NE(out.text.find("worker: later | "), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("'planted_write'"), std::string::npos) << out.text;
  const size_t first = out.text.find("'planted_write'"), later = out.text.find("cannot be used any more", first);
  EXPECT_NE(out.text.find("'planted_write'", later), std::string::npos) << "later ops repeat it: " << out.text;
  EXPECT_NE(out.text.find("| cpu 1"), std::string::npos) << out.text;
}
// A library that fails because of an earlier kernel gives that kernel's error, and no other reason.
TEST(DISABLED_CudaErrorLibraryWorker, Run) {
  FLAME_NEEDS_GPU(d);
  const Tensor a = full({64, 64}, 2, DType::f32, d), x = full({1000}, 2, DType::f32, d);
  matmul(a, a).to_vector<float>();
  std::string what;
  try {
    launch_text(d, "planted_write", "extern \"C\" __global__ void planted_write(float* x) { x[1ll << 40] = 1; }", x);
    for (int i = 0; i < 500; ++i) matmul(a, a).data();
    d.synchronize();
  } catch (const DeviceError& e) { what = e.what(); }
  std::printf("worker: %s\n", what.c_str());
  std::fflush(stdout);
  std::_Exit(0);
}
TEST(CudaErrors, OfALibraryNameTheLaunch) {
  FLAME_NEEDS_GPU(d);
  const Output out = run_worker("DISABLED_CudaErrorLibraryWorker.Run");
  EXPECT_NE(out.text.find("'planted_write'"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("cannot be used any more"), std::string::npos) << out.text;
}

TEST(CudaErrors, AreThrownAtTheOpWhenAskedFor) {
  FLAME_NEEDS_GPU(d);
  const Output out = run_worker("DISABLED_CudaErrorWorker.Run", "FLAME_SYNC=1");
  EXPECT_NE(out.text.find("worker: at the op | "), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("the launch that caused it is 'planted_write';"), std::string::npos) << out.text;
  EXPECT_NE(out.text.find("| cpu 1"), std::string::npos) << out.text;
}

// For compute-sanitizer: tools/gpu-check requires that each is reported.
TEST(DISABLED_CudaPlanted, WriteOutOfBounds) {
  FLAME_NEEDS_GPU(d);
  launch_text(d, "one_beyond", "extern \"C\" __global__ void one_beyond(float* x) { x[100 + threadIdx.x] = 1; }",
              full({100}, 1, DType::f32, d), {.threads = 1});
}
TEST(DISABLED_CudaPlanted, Race) {
  FLAME_NEEDS_GPU(d);
  launch_text(
      d, "no_barrier",
      "extern \"C\" __global__ void no_barrier(float* x) { __shared__ float s[256]; s[threadIdx.x] = x[threadIdx.x "
      "% 100]; x[threadIdx.x % 100] = s[255 - threadIdx.x]; }",
      full({100}, 1, DType::f32, d));
  d.synchronize();
}
TEST(DISABLED_CudaPlanted, ReadOfNothing) {
  FLAME_NEEDS_GPU(d);
  launch_text(d, "reads_nothing", "extern \"C\" __global__ void reads_nothing(float* x) { x[threadIdx.x] += 1; }",
              Tensor::empty({256}, DType::f32, d));
  d.synchronize();
}
TEST(DISABLED_CudaPlanted, DivergentBarrier) {
  FLAME_NEEDS_GPU(d);
  launch_text(d, "half_a_warp",
              "extern \"C\" __global__ void half_a_warp(float* x) { if (threadIdx.x < 16) __syncwarp(0xffff0000u); "
              "x[threadIdx.x] = 1; }",
              full({256}, 1, DType::f32, d));
  d.synchronize();
}

}  // namespace
}  // namespace flame
