// Pooling, padding and random numbers on the GPU at the sizes where their kernels change: packs of neighbours among channels
// and along rows, widths that have none, buffers that start anywhere. Against the CPU, bit for bit. Without a GPU all skip.
#include <gtest/gtest.h>

#include <flame/flame.h>

#include "flame/ops/split_internal.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;

// Small whole numbers with ties, NaN and infinities among them; `plain`: without those.
Tensor mixed_numbers(const Shape& s, DType t, bool plain) {
  Generator g(31);
  Tensor x = randint(-9, 10, s, {.dtype = DType::f32, .generator = &g});
  if (!plain) {
    const Tensor u = rand(s, {.generator = &g});
    x = where(u < 0.02, Scalar(NAN), where(u > 0.97, Scalar(-INFINITY), x));
  }
  return x.to(t);
}
// x in another memory: channels last, or starting one element after where a tensor starts.
Tensor last_channels(const Tensor& x) {
  const int n = x.rank();
  Dims there{0}, back{0, n - 1};
  for (int i = 2; i < n; ++i) there.push_back(i);
  there.push_back(1);
  for (int i = 1; i + 1 < n; ++i) back.push_back(i);
  return x.permute(there).contiguous().permute(back);
}
Tensor shifted(const Tensor& x) {
  return cat({zeros({1}, x.dtype(), x.device()), x.reshape({-1})}, 0).slice(0, 1, x.numel() + 1).reshape(x.shape());
}

using Triple = PerAxis<3>;
struct PoolCase {
  Shape x;
  Triple kernel, stride, padding = 0, dilation = 1;
  bool ceil_mode = false;
  DType dtype = DType::f32;
};
const std::vector<PoolCase>& pool_cases() {
  static const std::vector<PoolCase> all{
      {{2, 8, 1, 12, 24}, {1, 3, 3}, {1, 2, 2}, {0, 1, 1}, 1, false, DType::bf16},
      {{2, 8, 1, 12, 24}, {1, 2, 2}, {1, 2, 2}, 0, 1, false, DType::f16},
      {{3, 6, 1, 9, 13}, {1, 3, 3}, {1, 2, 2}, {0, 1, 1}, 1, true, DType::bf16},
      {{2, 5, 1, 7, 20}, {1, 3, 2}, {1, 1, 1}, {0, 1, 1}, 1, false, DType::f32},
      {{1, 4, 1, 11, 18}, {1, 2, 3}, {1, 3, 3}, {0, 0, 1}, 1, true, DType::f32},
      {{2, 16, 1, 9, 16}, {1, 2, 2}, {1, 3, 4}, 0, 1, false, DType::bf16},
      {{1, 2, 1, 10, 12}, {1, 4, 5}, {1, 2, 1}, {0, 2, 2}, 1, false, DType::f64},
      {{1, 4, 1, 8, 16}, {1, 2, 2}, {1, 2, 2}, {0, 1, 1}, {1, 2, 2}, false, DType::f32},
      {{1, 4, 1, 16, 16}, {1, 7, 7}, {1, 2, 2}, {0, 3, 3}, 1, false, DType::bf16},
      {{2, 4, 5, 6, 8}, {2, 3, 2}, {2, 1, 2}, {1, 1, 0}, 1, false, DType::bf16},
      {{3, 2, 1, 1, 1}, 1, 1, 0, 1, false, DType::f32},
      {{0, 2, 1, 4, 4}, {1, 2, 2}, {1, 2, 2}, 0, 1, false, DType::f32},
  };
  return all;
}

// Values, places and gradients of a pool of x on each device.
TEST(CudaPool, HasTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  for (const PoolCase& c : pool_cases())
    for (const bool plain : {true, false})
      for (const bool last : {false, true}) {
        const Tensor here = mixed_numbers(c.x, c.dtype, plain);
        const std::string what = to_string(c.x) + std::string(name_of(c.dtype)) + (last ? ", channels last" : "");
        const auto all = [&](Tensor x, bool moved) {
          if (last) x = last_channels(x);
          else if (moved) x = shifted(x);
          x.requires_grad_();
          const MaxPool3dOptions o{c.kernel, c.stride, c.padding, c.dilation, c.ceil_mode};
          const Tensor y = max_pool3d(x, o);
          const Tensor seed = mixed_numbers(y.shape(), c.dtype, true).to(x.device());
          const MaxPooled with = max_pool3d_with_indices(x, o);
          std::vector<Tensor> out{y, with.values, with.indices,
                                  grad({y}, {x}, {.grad_outputs = {last ? last_channels(seed) : seed}})[0],
                                  grad({with.values}, {x}, {.grad_outputs = {seed}})[0]};
          if (plain && c.dilation == Triple(1))
            for (const bool counts : {false, true}) {
              const Tensor a = avg_pool3d(x, {c.kernel, c.stride, c.padding, c.ceil_mode, counts});
              out.push_back(a);
              out.push_back(grad({a}, {x}, {.grad_outputs = {seed}})[0]);
            }
          return out;
        };
        const std::vector<Tensor> want = all(here, false);
        for (const bool moved : {false, true}) {
          if (moved && (last || !plain)) continue;
          const std::vector<Tensor> got = all(here.to(d), moved);
          for (size_t i = 0; i < want.size(); ++i)
            EXPECT_EQ(difference(got[i].to(cpu()), want[i]), "")
                << what << ", result " << i << (moved ? ", moved" : "");
        }
      }
}

// What device code does with a Split, on the host: next to every multiple, and at the ends.
TEST(CudaPad, QuotientsAreUpperHalvesOfProducts) {
  constexpr int64_t end = int64_t{1} << 31;
  for (int64_t n : {1, 2, 3, 5, 7, 10, 112, 114, 255, 256, 257, 641, 65535, 65537, 1000003, 1 << 30, (1 << 30) + 1}) {
    const Split s(n);
    const auto quotient = [&](int64_t a) {
      return s.multiplier ? static_cast<int64_t>((static_cast<uint64_t>(a) * s.multiplier >> 32) >> s.shift) : a;
    };
    const int64_t step = std::max<int64_t>(1, end / n / 1000) * n;
    for (int64_t multiple = 0; multiple < end; multiple += step)
      for (int64_t a = std::max<int64_t>(0, multiple - 1); a <= std::min(multiple + 1, end - 1); ++a)
        ASSERT_EQ(quotient(a), a / n) << a << " by " << n;
    ASSERT_EQ(quotient(end - 1), (end - 1) / n) << n;
  }
}

TEST(CudaPad, HasTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  struct Case {
    Shape x;
    std::vector<int64_t> sizes;
    DType dtype = DType::f32;
  };
  for (const Case& c :
       {Case{{3, 5, 7, 30}, {1, 1, 1, 1}, DType::bf16}, Case{{3, 5, 7, 13}, {3, 4, 2, 0}, DType::f16},
        Case{{2, 9, 4, 16}, {0, 0, 2, 1, 0, 3}, DType::f32}, Case{{4, 33}, {0, 5}, DType::u8},
        Case{{4, 3}, {2, 1}, DType::i8}, Case{{5, 6}, {1, 2, 2, 1}, DType::boolean}, Case{{3, 10}, {4, 3}, DType::i64},
        Case{{2, 3, 5}, {2, 2, 1, 2}, DType::f64}, Case{{70, 700}, {8, 24}, DType::i32}})
    for (const PadMode mode : {PadMode::constant, PadMode::reflect, PadMode::replicate, PadMode::circular}) {
      if (mode != PadMode::constant && c.dtype != DType::bf16 && c.dtype != DType::i64) continue;  // kernels to compile
      const Tensor x = mixed_numbers(c.x, DType::f32, true).to(c.dtype);
      const auto padded = [&](const Tensor& t) { return pad(t, c.sizes, {.mode = mode, .value = 1}); };
      const Tensor want = padded(x), there = x.to(d);
      const std::string what = to_string(c.x) + " " + std::string(name_of(c.dtype));
      EXPECT_EQ(difference(padded(there).to(cpu()), want), "") << what;
      EXPECT_EQ(difference(padded(shifted(there)).to(cpu()), want), "") << what << ", moved";
      EXPECT_EQ(difference(padded(there.transpose(0, -1).contiguous().transpose(0, -1)).to(cpu()), want), "")
          << what << ", transposed";
      if (c.x.rank() == 4) {
        EXPECT_EQ(difference(padded(last_channels(there)).to(cpu()), want), "") << what << ", channels last";
      }
    }
  EXPECT_EQ(difference(pad(zeros({0, 3}).to(d), {1, 2, 2, 1}, {.value = 5}).to(cpu()), full({3, 6}, 5.0)), "");
}

TEST(CudaRandom, EveryKindAndLengthHasTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  using Draw = Tensor (*)(const Shape&, RandomOptions);
  struct Kind {
    const char* name;
    Draw draw;
    std::vector<DType> dtypes;
  };
  const std::vector<DType> floats{DType::f32, DType::f16, DType::bf16, DType::f64};
  for (const Kind& k :
       {Kind{"rand", [](const Shape& s, RandomOptions o) { return rand(s, o); }, floats},
        Kind{"uniform", [](const Shape& s, RandomOptions o) { return uniform(s, -3, 0.1, o); }, floats},
        Kind{"randn", [](const Shape& s, RandomOptions o) { return randn(s, o); }, floats},
        Kind{"normal", [](const Shape& s, RandomOptions o) { return normal(s, 0.3, 1e-3, o); }, floats},
        Kind{"normal, tiny", [](const Shape& s, RandomOptions o) { return normal(s, 0, 1e-36, o); }, {DType::f32}},
        Kind{"truncated", [](const Shape& s, RandomOptions o) { return truncated_normal(s, {.a = -1}, o); }, floats},
        Kind{
            "randint", [](const Shape& s, RandomOptions o) { return randint(-7, 90, s, o); }, {DType::i64, DType::i32}},
        Kind{"randint, bytes", [](const Shape& s, RandomOptions o) { return randint(0, 256, s, o); }, {DType::u8}},
        Kind{"bernoulli", [](const Shape& s, RandomOptions o) { return bernoulli(s, 0.3, o); }, {DType::boolean}},
        Kind{"bernoulli of 0", [](const Shape& s, RandomOptions o) { return bernoulli(s, 0, o); }, {DType::boolean}},
        Kind{"bernoulli of 1", [](const Shape& s, RandomOptions o) { return bernoulli(s, 1, o); }, {DType::boolean}}})
    for (const DType t : k.dtypes)
      for (const int64_t n : {1, 3, 7, 8, 15, 1023, 4096, 16383, 65541, 1000003}) {
        Generator here(0x123456789abcdefull), there(0x123456789abcdefull);
        EXPECT_EQ(difference(k.draw({n}, {.dtype = t, .device = &d, .generator = &there}).to(cpu()),
                             k.draw({n}, {.dtype = t, .device = &cpu(), .generator = &here})),
                  "")
            << k.name << " " << name_of(t) << " " << n;
      }
}

TEST(CudaRandom, DropoutHasTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16})
    for (const int64_t n : {5, 4097, 300001}) {
      const Tensor x = mixed_numbers({n}, t, true);
      Generator here(5), there(5);
      EXPECT_EQ(difference(dropout(x.to(d), 0.3, true, &there).to(cpu()), dropout(x, 0.3, true, &here)), "") << n;
    }
}

}  // namespace
}  // namespace flame
