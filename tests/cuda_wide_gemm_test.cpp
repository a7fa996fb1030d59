// 16-bit products on Hopper by the own kernel: exact before the activation for numbers of few bits, in both layouts of b, ragged,
// with gelu_tanh, its slope and the sums of columns. The plan is asked for by itself, whatever is faster.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include "flame/device/device_scope.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;

// Multiples of 1/8 between -1 and 1: 16 bits hold them and float32 their sums of products.
Tensor drawn(const Shape& s, DType t, uint64_t seed, Device& d) {
  Generator g(seed);
  return (randint(-8, 9, s, {.device = &cpu(), .generator = &g}).to(DType::f32) / 8).to(t).to(d);
}
Meta meta_of(const Tensor& x) { return {x.dtype(), x.shape(), x.strides()}; }

struct Result {
  Tensor c, kept, sums;
};
// Of a [m, k] and b [k, n]; nothing if the kernel does not take it.
std::optional<Result> by_own_kernel(GemmDesc g, int columns, const Tensor& a, const Tensor& b, const Tensor& bias,
                                    const Tensor& kept, Device& d) {
  auto* make = plugin_function<Plan*(Device*, const GemmDesc*, int)>("flame_cuda_wide_gemm");
  const int64_t m = a.size(0), n = b.size(1);
  Result r{.c = full({m, n}, 7, a.dtype(), d)};
  g.a = meta_of(a);
  g.b = meta_of(b);
  g.c = meta_of(r.c);
  const Ref<Plan> plan = Ref<Plan>::adopt(make(&d, &g, columns));
  if (!plan) return {};
  std::vector<void*> buffers{a.data(), b.data()};
  if (g.bias) buffers.push_back(bias.data());
  if (g.slope != Activation::none) buffers.push_back(kept.data());
  buffers.push_back(r.c.data());
  if (g.keep) {
    r.kept = full({m, n}, 7, a.dtype(), d);
    buffers.push_back(r.kept.data());
  }
  if (g.sums) {
    r.sums = full({n}, 7, a.dtype(), d);
    buffers.push_back(r.sums.data());
  }
  const Tensor workspace = zeros({static_cast<int64_t>(plan->workspace) + 1}, DType::u8, d);
  plan->body(Run{buffers.data(), nullptr, workspace.data()});
  d.synchronize();
  return r;
}

Tensor wide(const Tensor& x) { return x.to(cpu()).to(DType::f64); }
// Off by at most `units` roundings of numbers of size 2^-14 or more.
void expect_near(const std::string& what, const Tensor& got, const Tensor& want, double units) {
  const double unit = rounding(got.dtype());
  EXPECT_LT(max(abs(wide(got) - want) / (maximum(abs(want), full_like(want, 0x1p-14)) * unit)).item(), units) << what;
}

TEST(CudaWideProducts, AgreeWithTheCpu) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope on(d);
  const auto tanh_of = [](const Tensor& x) { return activate(x, Activation::gelu_tanh); };
  struct Case {
    int64_t m, n, k;
  };
  for (const DType t : {DType::bf16, DType::f16})
    for (const Case& s : {Case{1000, 712, 400}, Case{130, 3080, 776}}) {
      const Tensor a = drawn({s.m, s.k}, t, 1, d), b = drawn({s.k, s.n}, t, 2, d) / 8, bias = drawn({s.n}, t, 3, d),
                   before = drawn({s.m, s.n}, t, 4, d) * 4;
      const Tensor product = matmul(wide(a), wide(b)), rounded = product.to(t).to(DType::f64),
                   biased = (product + wide(bias)).to(t).to(DType::f64);
      const Tensor x = wide(before).detach().requires_grad_(),
                   slope = grad({tanh_of(x)}, {x}, {.grad_outputs = {ones({s.m, s.n}, DType::f64, cpu())}})[0];
      for (const int columns : {256, 192})
        for (const bool turned : {false, true}) {
          const std::string what = std::string(name_of(t)) + " " + std::to_string(columns) + (turned ? " turned" : "");
          const Tensor y = turned ? b.t().contiguous().t() : b;
          const GemmDesc forward{.bias = true, .activation = Activation::gelu_tanh, .keep = true};
          const auto kept = by_own_kernel(forward, columns, a, y, bias, {}, d);
          if (!kept) GTEST_SKIP() << "no Hopper";
          EXPECT_EQ(difference(wide(kept->kept), biased), "") << what;
          expect_near(what + " gelu", kept->c, tanh_of(biased), 1.05);
          const auto bare = by_own_kernel({.activation = Activation::gelu_tanh}, columns, a, y, bias, {}, d);
          expect_near(what + " gelu without bias", bare->c, tanh_of(rounded), 1.05);
          const auto back =
              by_own_kernel({.slope = Activation::gelu_tanh, .sums = true}, columns, a, y, bias, before, d);
          expect_near(what + " slope", back->c, rounded * slope, 1.05);
          const Tensor sums = sum(wide(back->c), {0}), most = sum(abs(wide(back->c)), {0});
          EXPECT_LT(max(abs(wide(back->sums) - sums) / (abs(sums) * rounding(t) + most * 0x1p-20)).item(), 1.05)
              << what;
          const auto again = by_own_kernel({.slope = Activation::gelu_tanh}, columns, a, y, bias, before, d);
          EXPECT_EQ(difference(wide(again->c), wide(back->c)), "") << what << " without sums";
        }
    }
}

TEST(CudaWideProducts, OnlyWhatFits) {
  FLAME_NEEDS_GPU(d);
  auto* make = plugin_function<Plan*(Device*, const GemmDesc*, int)>("flame_cuda_wide_gemm");
  const auto takes = [&](int64_t m, int64_t n, int64_t k, DType t, Activation a, bool sums = false) {
    const GemmDesc g{.a = contiguous_meta(t, {m, k}),
                     .b = contiguous_meta(t, {k, n}),
                     .c = contiguous_meta(t, {m, n}),
                     .activation = a,
                     .sums = sums};
    return Ref<Plan>::adopt(make(&d, &g, 256)).get() != nullptr;
  };
  const Activation gelu = Activation::gelu_tanh;
  if (!takes(1024, 1024, 1024, DType::bf16, gelu)) GTEST_SKIP() << "no Hopper";
  EXPECT_FALSE(takes(1024, 1024, 1024, DType::f32, gelu));
  EXPECT_FALSE(takes(1024, 1024, 1024, DType::bf16, Activation::relu));
  EXPECT_FALSE(takes(1024, 1020, 1024, DType::bf16, gelu));
  EXPECT_FALSE(takes(1024, 1024, 1020, DType::bf16, gelu));
  EXPECT_FALSE(takes(1024, 1024, 1024, DType::bf16, gelu, true));
  EXPECT_FALSE(takes(64, 64, 64, DType::bf16, gelu));
}

}  // namespace
}  // namespace flame
