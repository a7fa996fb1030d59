// The profiler on a GPU: kernels by CUPTI, each given to the launch that asked for it, also inside recorded steps.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "flame/fuse/island.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;
using Json = nlohmann::json;

Tensor ready(const Shape& s, Device& d) {
  Tensor x = full(s, 0.5, DType::f32, d);
  materialize(*x.value_ref());
  d.synchronize();
  return x;
}
Tensor fused(const Tensor& a, const Tensor& b) { return a * b + 1; }  // the product itself is not kept
train::ProfileRow row(train::Profiler& p, const std::string& name) {
  for (const train::ProfileRow& r : p.rows())
    if (r.name == name) return r;
  ADD_FAILURE() << "no row " << name << " in\n" << p.table();
  return {};
}

TEST(CudaProfile, TimesTheKernelsOfEachLaunch) {
  FLAME_NEEDS_GPU(d);
  const Tensor a = ready({1024, 1024}, d), b = ready({1024, 1024}, d);
  matmul(a, b);  // what is compiled and loaded at first is no part of it
  materialize(*fused(a, b).value_ref());
  d.synchronize();
  const std::string file =
      (std::filesystem::path(testing::TempDir()) / ("cuda_profile_" + std::to_string(getpid()) + ".json")).string();
  train::Profiler p{{.trace = file}};
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 10; ++i) {
    const train::ProfileScope scope("turn");
    matmul(a, b);
    materialize(*fused(a, b).value_ref());
  }
  p.stop();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
  const train::ProfileRow gemm = row(p, "matmul: gemm"), island = row(p, "mul+add: island(2 ops)");
  EXPECT_EQ(gemm.calls, 10u);
  EXPECT_EQ(island.calls, 10u);
  EXPECT_EQ(gemm.device, d.name());
  EXPECT_EQ(island.bytes, 10 * 3 * 4 * 1024 * 1024);
  EXPECT_GT(gemm.seconds, 0);
  EXPECT_GT(island.seconds, 0);
  EXPECT_LT(gemm.seconds + island.seconds, wall.count());
  EXPECT_LT(gemm.floor, 2 * gemm.seconds);
  EXPECT_GT(gemm.floor, 0);

  const Json all = Json::parse(io::read_file(file))["traceEvents"];
  std::filesystem::remove(file);
  int kernels = 0, arrows = 0;
  double first = 1e300, last = 0, scopes_from = 1e300, scopes_to = 0;
  for (const Json& e : all) {
    arrows += e["ph"] == "f";
    if (e.value("cat", "") == "kernel" && e["pid"] != 0) {
      ++kernels;
      first = std::min(first, e["ts"].get<double>());
      last = std::max(last, e["ts"].get<double>() + e["dur"].get<double>());
    } else if (e.value("cat", "") == "scope") {
      scopes_from = std::min(scopes_from, e["ts"].get<double>());
      scopes_to = std::max(scopes_to, e["ts"].get<double>() + e["dur"].get<double>());
    }
  }
  EXPECT_GE(kernels, 20);
  EXPECT_EQ(arrows, 20);
  EXPECT_GT(first, scopes_from - 1000);  // one clock for both, to a millisecond
  EXPECT_LT(last, wall.count() * 1e6 + scopes_from + 1000);
}

TEST(CudaProfile, NamesTheKernelsOfRecordedSteps) {
  FLAME_NEEDS_GPU(d);
  const Tensor w = ready({256, 256}, d), x = ready({128, 256}, d);
  auto step = record([&](const Tensor& in) { return matmul(exp(matmul(in, w)), w).sum(); });
  for (int i = 0; i < 4; ++i) step(x);
  d.synchronize();
  train::Profiler p;
  for (int i = 0; i < 8; ++i) step(x);
  p.stop();
  EXPECT_EQ(row(p, "matmul: gemm").calls, 16u) << p.table();
  EXPECT_EQ(row(p, "matmul: gemm").bytes, 16 * 4 * (128 * 256 + 256 * 256 + 128 * 256));
}

TEST(CudaProfile, TimesNothingWhereItIsNotAskedTo) {
  FLAME_NEEDS_GPU(d);
  const Tensor a = ready({64, 64}, d);
  train::Profiler p{{.kernels = false}};
  matmul(a, a);
  p.stop();
  EXPECT_TRUE(p.rows().empty());
}

}  // namespace
}  // namespace flame
