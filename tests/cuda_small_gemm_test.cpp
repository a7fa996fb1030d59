// Small products on tensor cores by the own kernels: exact for numbers of few bits, in every layout, ragged, with all
// that follows a product inside it; the plan is asked for by itself, whatever is faster. And a linear layer's
// gradients in one launch.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include "flame/device/device_scope.h"
#include "flame/ops/linear_internal.h"
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

TEST(CudaSmallProducts, FillTheGpu) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope on(d);
  const Tensor a = drawn({320, 20}, 1, d), b = drawn({20, 318}, 2, d);  // 100 tiles of 32 x 32
  const auto got = by_own_kernel({.tf32 = true, .sums = true}, a, b, {}, {}, d);
  ASSERT_TRUE(got);
  EXPECT_EQ(difference(got->c.to(cpu()), matmul(a.to(cpu()), b.to(cpu()))), "");
  EXPECT_EQ(difference(got->sums.to(cpu()), sum(a.to(cpu()), {1})), "");
}

struct PrecisionScope {
  explicit PrecisionScope(const char* p) { set_matmul_precision(p); }
  ~PrecisionScope() { set_matmul_precision(before); }
  const std::string before{matmul_precision()};
};

// With and without relu's slope, sums and the gradient to x; with all of them and none where texts are slow to compile.
void expect_gradients(int64_t rows, int64_t in, int64_t out, Device& d, bool shifted = false) {
  const auto laid_at = [&](const Tensor& x) {  // perhaps not at a multiple of 16 bytes
    if (!shifted) return x;
    return cat({zeros({1}, x.dtype(), d), x.flatten(0)}).narrow(0, 1, x.numel()).reshape(x.shape());
  };
  const Tensor g = laid_at(drawn({rows, out}, 1, d)), x = laid_at(drawn({rows, in}, 2, d)),
               w = laid_at(drawn({out, in}, 3, d)), y = laid_at(relu(drawn({rows, out}, 4, d)));
  const auto wide = [](const Tensor& t) { return t.to(cpu()).to(DType::f64); };
  for (const bool passed : {false, true}) {
    const Tensor before = passed ? where(wide(y) > 0, wide(g), 0.0) : wide(g);
    for (const bool all : {true, false}) {
      if (d.name() == "cuda:emulated" && all != passed && !full()) continue;
      const LinearGradients got =
          one_launch_gradients(g, x, all ? w : Tensor(), passed ? y : Tensor(), all, Loc::current());
      const auto expect = [&](const char* what, const Tensor& have, const Tensor& want) {
        EXPECT_EQ(difference(wide(have), want), "") << what << " of " << rows << " x " << in << " -> " << out;
      };
      expect("weight", got.weight, matmul(before.t(), wide(x)));
      EXPECT_EQ(got.x.defined(), all);
      EXPECT_EQ(got.bias.defined(), all);
      if (!all) continue;
      expect("x", got.x, matmul(before, wide(w)));
      expect("bias", got.bias, sum(before, {0}));
    }
  }
}

// [rows, in, out]: whole tiles, ragged ones, rows that no 16-byte read fits, more than a turn, many warps, large tiles.
TEST(CudaSmallProducts, GradientsOfALayerAreOneLaunch) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope on(d);
  constexpr int64_t layers[][3] = {{64, 32, 16}, {33, 12, 20}, {5, 7, 3},     {1, 1, 1},
                                   {200, 8, 12}, {520, 8, 4},  {40, 1600, 60}};
  for (const auto& [rows, in, out] : layers) expect_gradients(rows, in, out, d);
  expect_gradients(16, 8, 12, d, true);
}

TEST(EmulatedSmallProducts, GradientsOfALayerAreOneLaunch) {
  FLAME_NEEDS_EMULATOR(d);
  const DeviceScope on(d);
  expect_gradients(33, 12, 20, d);
  expect_gradients(5, 7, 3, d);
  expect_gradients(16, 8, 12, d, true);
}

TEST(CudaSmallProducts, GradientsOfAWideLayerAreTwoLaunches) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope on(d);
  const Tensor g = drawn({2, 3}, 1, d), x = drawn({2, 8480}, 2, d), w = drawn({3, 8480}, 3, d);
  const uint64_t launches = stats().launches;
  const LinearGradients got = one_launch_gradients(g, x, w, {}, true, Loc::current());
  EXPECT_EQ(stats().launches, launches + 2);
  EXPECT_EQ(difference(got.weight.to(cpu()), matmul(g.to(cpu()).t(), x.to(cpu()))), "");
  EXPECT_EQ(difference(got.bias.to(cpu()), sum(g.to(cpu()), {0})), "");
  EXPECT_EQ(difference(got.x.to(cpu()), matmul(g.to(cpu()), w.to(cpu()))), "");
}

TEST(CudaSmallProducts, GradientsAreOneLaunchWhereTheyMayBeRounded) {
  FLAME_NEEDS_GPU(d);
  const DeviceScope on(d);
  const Tensor given = drawn({2, 3, 4}, 4, d);
  int unpacked = 0;
  const auto gradients = [&](Activation a, bool to_x, uint64_t* launches = nullptr) {
    Tensor x = drawn({2, 3, 8}, 1, d), w = drawn({4, 8}, 2, d), b = drawn({4}, 3, d);
    const SavedTensorHooksScope scope({[](const Tensor& t) { return std::any(t); },
                                       [&](const std::any& t) {
                                         ++unpacked;
                                         return std::any_cast<Tensor>(t);
                                       }});
    std::vector<Tensor> leaves{w.requires_grad_(), b.requires_grad_()};
    if (to_x) leaves.push_back(x.requires_grad_());
    const Tensor y = linear(x, w, b, {.activation = a});
    y.data();
    const uint64_t before = stats().launches;
    unpacked = 0;
    const std::vector<Tensor> out = grad({y}, leaves, {.grad_outputs = {given}});
    for (const Tensor& g : out) g.data();
    if (launches) *launches = stats().launches - before;
    return out;
  };
  for (const Activation a : {Activation::none, Activation::relu})
    for (const bool to_x : {true, false}) {
      const std::vector<Tensor> exact = [&] {
        const PrecisionScope highest("highest");
        return gradients(a, to_x);
      }();
      const PrecisionScope high("high");
      uint64_t launches = 0;
      const std::vector<Tensor> rounded = gradients(a, to_x, &launches);
      EXPECT_EQ(launches, a == Activation::relu && !d.fuses() ? 2u : 1u) << to_x;
      EXPECT_EQ(unpacked, 1 + int{to_x} + int{a == Activation::relu});
      for (size_t i = 0; i < exact.size(); ++i)
        EXPECT_EQ(difference(exact[i].to(cpu()), rounded[i].to(cpu())), "") << i;
    }
}

TEST(CudaSmallProducts, OneLaunchWhereItFits) {
  FLAME_NEEDS_GPU(d);
  const Tensor g = drawn({6, 4}, 1, d), x = drawn({6, 8}, 2, d), w = drawn({4, 8}, 3, d);
  const auto fits = [&](const Tensor& g, const Tensor& x) { return one_launch_fits(g, meta_of(x), meta_of(w)); };
  {
    const PrecisionScope high("high");
    EXPECT_TRUE(fits(g, x));
    EXPECT_FALSE(fits(g, laid(x, true)));
    EXPECT_FALSE(fits(g.to(DType::f64), x));
    EXPECT_FALSE(fits(drawn({2000, 4}, 1, d), drawn({2000, 8}, 1, d)));
  }
  const PrecisionScope highest("highest");
  EXPECT_FALSE(fits(g, x));
}

// Chosen or not, what comes out is within TF32's rounding.
TEST(CudaSmallProducts, AreCandidates) {
  FLAME_NEEDS_GPU(d);
  const PrecisionScope high("high");
  Generator g(5);
  const auto normal_of = [&](const Shape& s) { return randn(s, {.device = &cpu(), .generator = &g}); };
  const Tensor x = normal_of({128, 784}), w = normal_of({256, 784}), b = normal_of({256});
  const Tensor y = linear(x.to(d), w.to(d), b.to(d), {.activation = Activation::relu}).to(cpu());
  const Tensor want = relu(linear(x.to(DType::f64), w.to(DType::f64), b.to(DType::f64)));
  // Each product is off by at most 2^-10 of itself, 784 of them by about its root of that.
  EXPECT_LT(max(abs(y.to(DType::f64) - want)).item(), 6 * std::sqrt(784.0) * 0x1p-11);
}

}  // namespace
}  // namespace flame
