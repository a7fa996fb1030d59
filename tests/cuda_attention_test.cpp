// Attention on the GPU against float64 on the CPU: own tiles and cuDNN's, masks, dropout, strides, memory, repeated bits.
// Without a GPU all skip.
#include <gtest/gtest.h>

#include <cmath>

#include <flame/flame.h>

#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;
using Inputs = std::vector<Tensor>;
constexpr double none = -std::numeric_limits<double>::infinity();
constexpr DType all_types[] = {DType::f64, DType::f32, DType::f16, DType::bf16};

Tensor noise(const Shape& s, uint64_t seed, DType t = DType::f64) {
  Generator g(seed);
  return normal(s, 0, 1, {.dtype = t, .device = &cpu(), .generator = &g});
}
double allowed(DType t) {
  switch (t) {
    case DType::f64: return 1e-13;
    case DType::f32: return 3e-6;
    case DType::f16: return 2e-3;
    default: return 1e-2;
  }
}

struct Problem {
  Shape q, k, v;
  AttentionOptions options = {};
  uint64_t seed = 0;                        // of dropout
  bool mask_too = false;                    // the mask's gradient is wanted
  Tensor (*view)(const Tensor&) = nullptr;  // made of each input before the call
};
Tensor attention(const Problem& p, const Inputs& in, const Tensor& mask) {
  Generator g(p.seed);
  AttentionOptions o = p.options;
  o.mask = mask;
  o.generator = &g;
  const auto seen = [&](int i) { return p.view ? p.view(in[static_cast<size_t>(i)]) : in[static_cast<size_t>(i)]; };
  return scaled_dot_product_attention(seen(0), seen(1), seen(2), o);
}
// The output, the gradients of q, k and v.
Inputs results(const Problem& p, Inputs in, const Tensor& mask) {
  for (Tensor& x : in) x.requires_grad_();
  const Tensor y = attention(p, in, mask);
  Inputs all = grad({y}, in, {.grad_outputs = {noise(y.shape(), 77).to(y.dtype()).to(y.device())}});
  all.insert(all.begin(), y.detach());
  return all;
}
Inputs inputs_of(const Problem& p, DType t) { return {noise(p.q, 1).to(t), noise(p.k, 2).to(t), noise(p.v, 3).to(t)}; }
Inputs on(Device& d, const Inputs& in) {
  Inputs out;
  for (const Tensor& x : in) out.push_back(x.to(d));
  return out;
}
double distance(const Tensor& got, const Tensor& want) {
  const std::vector<double> a = numbers(got), b = numbers(want);
  double off = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    off += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return size == 0 ? std::sqrt(off) : std::sqrt(off / size);
}
void expect_agreement(const Inputs& got, const Inputs& want, double tolerance, const std::string& what) {
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_EQ(got[i].shape(), want[i].shape()) << what;
    EXPECT_LE(distance(got[i], want[i]), tolerance) << what << ", result " << i;
  }
}
void expect_cpu(Device& d, const Problem& p, DType t, const std::string& what) {
  const Inputs in = inputs_of(p, t);
  Inputs wide;
  for (const Tensor& x : in) wide.push_back(x.to(DType::f64));
  const Tensor mask = p.options.mask, there = mask.defined() ? mask.to(d) : mask;
  expect_agreement(results(p, on(d, in), there), results(p, wide, mask), allowed(t),
                   what + " " + std::string(name_of(t)));
}

TEST(CudaAttention, EveryWidthAndLength) {
  FLAME_NEEDS_GPU(d);
  const std::vector<std::array<int64_t, 2>> lengths{{2, 2}, {1, 200}, {128, 128}, {77, 203}, {203, 77}};
  for (const DType t : all_types)
    for (const int64_t width : {8, 33, 64, 128, 150})
      for (const auto& [rows, keys] : lengths)
        for (const bool causal : {false, true}) {
          if (causal && rows == 1) continue;  // one key alone has a gradient of nothing but rounding
          const Shape shared{2, 2, keys, width};
          expect_cpu(d, {{2, 4, rows, width}, shared, shared, {.causal = causal, .grouped_query = true}}, t,
                     std::to_string(rows) + "x" + std::to_string(keys) + " by " + std::to_string(width));
        }
}

TEST(CudaAttention, ValuesOfAnotherWidth) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : all_types) {
    expect_cpu(d, {{1, 3, 70, 16}, {1, 3, 90, 16}, {1, 3, 90, 72}}, t, "wider values");
    expect_cpu(d, {{1, 3, 70, 96}, {1, 3, 90, 96}, {1, 3, 90, 24}, {.scale = 0.2}}, t, "narrower values");
  }
}

TEST(CudaAttention, MasksOfEveryShape) {
  FLAME_NEEDS_GPU(d);
  const int64_t b = 2, h = 3, rows = 75, keys = 140;
  for (const DType t : all_types)
    for (const Shape& s : {Shape{keys}, Shape{rows, 1}, Shape{rows, keys}, Shape{h, 1, keys}, Shape{b, 1, 1, keys},
                           Shape{b, h, rows, keys}}) {
      const Tensor bias = noise(s, 5), keep = bias > -0.3;
      for (const Tensor& mask : {keep, bias.to(DType::f32), bias, where(keep, bias, none).to(DType::bf16)})
        for (const bool causal : {false, true})
          expect_cpu(d, {{b, h, rows, 40}, {b, h, keys, 40}, {b, h, keys, 40}, {.mask = mask, .causal = causal}}, t,
                     "mask " + to_string(s) + " of " + std::string(name_of(mask.dtype())));
    }
}

TEST(CudaAttention, RowsWithoutKeysGiveZeros) {
  FLAME_NEEDS_GPU(d);
  const Tensor keep = (arange(0, 70, 1, DType::i64) != 1).reshape({70, 1});
  for (const DType t : all_types)
    for (const Tensor& mask : {keep, where(keep, zeros({70, 1}, DType::f32), none)}) {
      const Problem p{{1, 1, 70, 16}, {1, 1, 80, 16}, {1, 1, 80, 16}};
      const Inputs r = results(p, on(d, inputs_of(p, t)), mask.to(d));
      EXPECT_EQ(numbers(r[0].select(2, 1)), std::vector<double>(16, 0)) << name_of(t);
      EXPECT_EQ(numbers(r[1].select(2, 1)), std::vector<double>(16, 0)) << name_of(t);
      for (const Tensor& x : r) EXPECT_TRUE(all(isfinite(x)).item<bool>()) << name_of(t);
    }
}

TEST(CudaAttention, ABoolMaskSelects) {
  FLAME_NEEDS_GPU(d);
  const Tensor keep = (remainder(arange(0, 90, 1, DType::i64), 7) != 3);
  for (const DType t : all_types) {
    const Problem p{{1, 1, 40, 8}, {1, 1, 90, 8}, {1, 1, 90, 8}};
    Inputs in = inputs_of(p, t), spoilt = in;
    spoilt[1] = where(keep.reshape({90, 1}), in[1], std::numeric_limits<double>::infinity()).to(t);
    in[1] = where(keep.reshape({90, 1}), in[1], 0.0).to(t);
    const Tensor a = attention(p, on(d, spoilt), keep.to(d)), b = attention(p, on(d, in), keep.to(d));
    EXPECT_EQ(difference(a, b), "") << name_of(t);
    EXPECT_TRUE(all(isfinite(a)).item<bool>()) << name_of(t);
  }
}

TEST(CudaAttention, DropoutIsTheCpus) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : all_types)
    for (const int64_t keys : {64, 131})
      for (const bool masked : {false, true}) {
        Problem p{{2, 4, 100, 32},
                  {2, 2, keys, 32},
                  {2, 2, keys, 32},
                  {.causal = true, .dropout = 0.3, .grouped_query = true}};
        p.seed = 12345678901;
        if (masked) p.options.mask = noise({100, keys}, 4) > -1;
        expect_cpu(d, p, t, "dropout over " + std::to_string(keys));
      }
}

TEST(CudaAttention, StridesAsTheyCome) {
  FLAME_NEEDS_GPU(d);
  // [B, L, 3, H, E] without a copy; the same one element further, so that no row is aligned; and turned around.
  for (const DType t : all_types)
    for (const int64_t skip : {0, 1}) {
      const int64_t b = 2, l = 150, h = 4, e = 64;
      Inputs wide, here;
      const Tensor all = noise({b * l * 3 * h * e + 1}, 8).to(t);
      for (const Tensor& x : {all.to(DType::f64), all.to(d)}) {
        const Tensor packed = x.slice(0, skip, skip + b * l * 3 * h * e).reshape({b, l, 3, h, e});
        for (int i = 0; i < 3; ++i)
          (x.dtype() == DType::f64 && x.device().kind() == Device::Kind::cpu ? wide : here)
              .push_back(packed.select(2, i).transpose(1, 2));
      }
      Problem p{here[0].shape(), here[1].shape(), here[2].shape(), {.causal = true}};
      const uint64_t before = stats().launches;
      attention(p, here, {}).data();
      EXPECT_EQ(stats().launches, before + 1) << "no copies";
      expect_agreement(results(p, here, {}), results(p, wide, {}), allowed(t), "packed, " + std::string(name_of(t)));
      p.view = [](const Tensor& x) { return flip(x, {2}).transpose(-1, -2).contiguous().transpose(-1, -2); };
      expect_agreement(results(p, here, {}), results(p, wide, {}), allowed(t), "turned, " + std::string(name_of(t)));
    }
}

// The gradient of [B, L, 3 H E] comes out of the launch as one tensor, cuDNN's too.
TEST(CudaAttention, GradientsOfPartsAreOneTensor) {
  FLAME_NEEDS_GPU(d);
  const int64_t b = 2, l = 200, h = 4, e = 64;
  for (const DType t : all_types)
    for (const bool causal : {false, true}) {
      const Tensor packed = noise({b, l, 3 * h * e}, 8).to(t);
      const auto gradient = [&](Tensor x, uint64_t launches) {
        x.requires_grad_();
        Inputs parts = chunk(x, 3, -1);
        for (Tensor& part : parts) part = part.reshape({b, l, h, e}).transpose(1, 2);
        const Tensor y = scaled_dot_product_attention(parts[0], parts[1], parts[2], {.causal = causal});
        const Tensor seed = noise(y.shape(), 77).to(y.dtype()).to(y.device());
        seed.data();
        const uint64_t before = stats().launches;
        const Tensor g = grad({y}, {x}, {.grad_outputs = {seed}})[0];
        EXPECT_EQ(stats().launches, before + launches);
        return g;
      };
      const Tensor want = gradient(packed.to(DType::f64), 1);
      EXPECT_LE(distance(gradient(packed.to(d), 1), want), allowed(t)) << name_of(t) << causal;
    }
}

TEST(CudaAttention, NothingAtAll) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : all_types)
    for (const auto& [b, rows, keys, width, depth] :
         std::vector<std::array<int64_t, 5>>{{0, 3, 4, 8, 8}, {2, 0, 70, 8, 8}, {2, 3, 0, 8, 8}, {2, 3, 70, 8, 0}})
      expect_cpu(d, {{b, 2, rows, width}, {b, 2, keys, width}, {b, 2, keys, depth}}, t, "empty");
}

// A mask that keeps all leads past the library.
TEST(CudaAttention, TheLibraryAgreesWithOwnTiles) {
  FLAME_NEEDS_GPU(d);
  const Tensor everything = ones({1}, DType::boolean).to(d);
  int compared = 0;
  for (const DType t : {DType::f16, DType::bf16})
    for (const int64_t width : {64, 128})
      for (const int64_t shared : {1, 2, 4})
        for (const auto& [rows, keys] : std::vector<std::array<int64_t, 2>>{{512, 512}, {200, 333}})
          for (const bool causal : {false, true}) {
            const Problem p{{2, 4, rows, width},
                            {2, shared, keys, width},
                            {2, shared, keys, width},
                            {.causal = causal, .grouped_query = true}};
            AttentionDesc a;
            a.causal = causal;
            a.q = a.out = contiguous_meta(t, p.q);
            a.k = contiguous_meta(t, p.k);
            a.v = contiguous_meta(t, p.v);
            const std::string what = std::string(name_of(t)) + " " + std::to_string(width) + " " +
                                     std::to_string(shared) + (causal ? " causal " : " ") + std::to_string(rows);
            if (!d.attention(a)) {
              std::printf("cuDNN has no plan for %s\n", what.c_str());
              continue;
            }
            const Inputs in = on(d, inputs_of(p, t));
            expect_agreement(results(p, in, {}), results(p, in, everything), allowed(t), what);
            ++compared;
          }
  EXPECT_GT(compared, 0) << "cuDNN has no plan at all, or the plugin was built without cudnn-frontend";
}

TEST(CudaAttention, NeverBuildsTheScores) {
  FLAME_NEEDS_GPU(d);
  const int64_t rows = 16384, heads = 8, width = 64;
  for (const DType t : {DType::bf16, DType::f32})
    for (const bool masked : {false, true}) {
      Inputs in;
      for (uint64_t i = 0; i < 3; ++i)
        in.push_back(noise({1, heads, rows, width}, i, DType::f32).to(t).to(d).requires_grad_());
      const Tensor seed = noise({1, heads, rows, width}, 9, DType::f32).to(t).to(d);
      const Tensor mask = masked ? (noise({rows}, 5, DType::f32) > -1).to(d) : Tensor();
      const auto work = [&] {
        const Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], {.mask = mask, .causal = !masked});
        Inputs made = grad({y}, in, {.grad_outputs = {seed}});
        made.push_back(y);
        return made;
      };
      work();  // loads what has to be loaded
      d.synchronize();
      d.empty_cache();
      reset_peak_memory(d);
      const size_t before = memory_stats(d).allocated, one = static_cast<size_t>(rows * heads * width) * size_of(t);
      const size_t driver_before = look(d).driver_used;
      const Inputs g = work();
      d.synchronize();  // what the cache holds now is at least what was needed at once
      const size_t driver = look(d).driver_used - driver_before - 4 * one;
      const size_t extra = memory_stats(d).peak - before - 4 * one;  // the output and three gradients
      EXPECT_LT(driver, size_t{256} << 20) << "by the driver's figure";
      std::printf("%s%s: peak beside inputs, outputs and gradients %.1f MiB, by the driver %.1f\n",
                  std::string(name_of(t)).c_str(), masked ? ", masked" : "", static_cast<double>(extra) / (1 << 20),
                  static_cast<double>(driver) / (1 << 20));
      EXPECT_LT(extra, size_t{256} << 20);
      EXPECT_GE(memory_stats(d).peak - before, 4 * one);
      for (const Tensor& x : g) EXPECT_TRUE(all(isfinite(x)).item<bool>());
    }
}

TEST(CudaAttention, SameBitsEveryTime) {
  FLAME_NEEDS_GPU(d);
  struct Restore {
    ~Restore() { set_deterministic(false); }
  } restore;
  set_deterministic(true);
  for (const DType t : all_types)
    for (const double dropout : {0.0, 0.2}) {
      Problem p{{2, 8, 700, 64},
                {2, 2, 900, 64},
                {2, 2, 900, 64},
                {.causal = true, .dropout = dropout, .grouped_query = true}};
      const Inputs in = on(d, inputs_of(p, t)), first = results(p, in, {});
      for (int again = 0; again < 3; ++again) {
        const Inputs r = results(p, in, {});
        for (size_t i = 0; i < r.size(); ++i) EXPECT_EQ(difference(r[i], first[i]), "") << name_of(t) << " " << i;
      }
    }
}

}  // namespace
}  // namespace flame
