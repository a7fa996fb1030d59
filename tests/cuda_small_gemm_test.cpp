// Small products on tensor cores by the own kernel: exact for numbers of few bits, in every layout, ragged, with all that
// follows a product inside it. The plan is asked for by itself, whatever is faster.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include "flame/device/device_scope.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;

// Multiples of 1/8 between -2 and 2: TF32 holds them and float32 their sums of products.
Tensor drawn(const Shape& s, uint64_t seed, Device& d) {
  Generator g(seed);
  return (randint(-16, 17, s, {.device = &cpu(), .generator = &g}).to(DType::f32) / 8).to(d);
}

Meta meta_of(const Tensor& x) { return {x.dtype(), x.shape(), x.strides()}; }

struct Result {
  Tensor c, kept, sums;
};
// Of a [m, k] and b [k, n]; nothing if the kernel does not take it.
std::optional<Result> by_own_kernel(GemmDesc g, const Tensor& a, const Tensor& b, const Tensor& bias,
                                    const Tensor& kept, Device& d) {
  auto* make = plugin_function<Plan*(Device*, const GemmDesc*)>("flame_cuda_small_gemm");
  const int64_t m = a.size(0), n = b.size(1);
  Result r{.c = full({m, n}, 7, DType::f32, d)};
  g.a = meta_of(a);
  g.b = meta_of(b);
  g.c = meta_of(r.c);
  const Ref<Plan> plan = Ref<Plan>::adopt(make(&d, &g));
  if (!plan) return {};
  std::vector<void*> buffers{a.data(), b.data()};
  if (g.bias) buffers.push_back(bias.data());
  if (g.slope != Activation::none) buffers.push_back(kept.data());
  buffers.push_back(r.c.data());
  if (g.keep) {
    const Meta bits = kept_meta(Activation::relu, g.c);
    r.kept = zeros(bits.shape, bits.dtype, d);
    buffers.push_back(r.kept.data());
  }
  if (g.sums) {
    r.sums = full({m}, 7, DType::f32, d);
    buffers.push_back(r.sums.data());
  }
  plan->body(Run{buffers.data(), nullptr, nullptr});
  d.synchronize();
  return r;
}

// The matrix as it lies, or the same read from its transpose's memory.
Tensor laid(const Tensor& x, bool turned) { return turned ? x.t().contiguous().t() : x.contiguous(); }

void expect_exact(int64_t m, int64_t n, int64_t k, Device& d) {
  const DeviceScope on(d);
  for (const bool a_turned : {false, true})
    for (const bool b_turned : {false, true}) {
      const Tensor a = laid(drawn({m, k}, 1, d), a_turned), b = laid(drawn({k, n}, 2, d), b_turned),
                   bias = drawn({n}, 3, d);
      const auto wide = [](const Tensor& x) { return x.to(cpu()).to(DType::f64); };
      const Tensor product = matmul(wide(a), wide(b)), with_bias = product + wide(bias);
      const auto expect = [&](const char* what, const Tensor& got, const Tensor& want) {
        EXPECT_EQ(difference(wide(got), want.to(DType::f64)), "")
            << what << " of " << m << " x " << n << " x " << k << (a_turned ? ", a turned" : "")
            << (b_turned ? ", b turned" : "");
      };
      const auto plain = by_own_kernel({.tf32 = true}, a, b, bias, {}, d);
      ASSERT_TRUE(plain);
      expect("the product", plain->c, product);
      const auto biased =
          by_own_kernel({.bias = true, .tf32 = true, .activation = Activation::relu}, a, b, bias, {}, d);
      ASSERT_TRUE(biased);
      expect("relu", biased->c, relu(with_bias));
      const auto kept =
          by_own_kernel({.bias = true, .tf32 = true, .activation = Activation::relu, .keep = true}, a, b, bias, {}, d);
      ASSERT_TRUE(kept);
      expect("relu that is kept", kept->c, relu(with_bias));
      const auto slope = by_own_kernel({.tf32 = true, .slope = Activation::relu}, a, b, bias, kept->kept, d);
      ASSERT_TRUE(slope);
      expect("the slope", slope->c, where(with_bias > 0, product, 0.0));
      const auto sums = by_own_kernel({.tf32 = true, .sums = true}, a, b, bias, {}, d);
      ASSERT_TRUE(sums);
      expect("the product beside sums", sums->c, product);
      expect("sums", sums->sums, sum(wide(a), {1}));
    }
}

// [m, n, k]: whole tiles, ragged ones, rows that no 16-byte read fits, fewer chunks than warps, more than two turns.
constexpr int64_t sizes[][3] = {{64, 32, 128}, {33, 10, 100}, {40, 68, 12}, {5, 7, 3}, {1, 1, 1}, {32, 36, 784}};

TEST(CudaSmallProducts, AreExact) {
  FLAME_NEEDS_GPU(d);
  for (const auto& [m, n, k] : sizes) expect_exact(m, n, k, d);
}

TEST(CudaSmallProducts, OnlyWhatMayBeRounded) {
  FLAME_NEEDS_GPU(d);
  const Tensor a = drawn({8, 8}, 1, d), wide = a.to(DType::f64), batch = drawn({2, 8, 8}, 1, d);
  auto* make = plugin_function<Plan*(Device*, const GemmDesc*)>("flame_cuda_small_gemm");
  const auto takes = [&](const Tensor& x, bool tf32, Activation act = Activation::none) {
    const GemmDesc g{.a = meta_of(x), .b = meta_of(x), .c = meta_of(x), .tf32 = tf32, .activation = act};
    return Ref<Plan>::adopt(make(&d, &g)).get() != nullptr;
  };
  EXPECT_TRUE(takes(a, true));
  EXPECT_FALSE(takes(a, false));
  EXPECT_FALSE(takes(a, true, Activation::gelu_tanh));
  EXPECT_FALSE(takes(wide, true));
  EXPECT_FALSE(takes(batch, true));
}

// Chosen or not, what comes out is within TF32's rounding.
TEST(CudaSmallProducts, AreCandidates) {
  FLAME_NEEDS_GPU(d);
  const auto before = matmul_precision();
  set_matmul_precision("high");
  Generator g(5);
  const auto normal_of = [&](const Shape& s) { return randn(s, {.device = &cpu(), .generator = &g}); };
  const Tensor x = normal_of({128, 784}), w = normal_of({256, 784}), b = normal_of({256});
  const Tensor y = linear(x.to(d), w.to(d), b.to(d), {.activation = Activation::relu}).to(cpu());
  set_matmul_precision(before);
  const Tensor want = relu(linear(x.to(DType::f64), w.to(DType::f64), b.to(DType::f64)));
  // Each product is off by at most 2^-10 of itself, 784 of them by about its root of that.
  EXPECT_LT(max(abs(y.to(DType::f64) - want)).item(), 6 * std::sqrt(784.0) * 0x1p-11);
}

}  // namespace
}  // namespace flame
