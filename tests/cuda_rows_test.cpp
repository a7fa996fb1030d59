// Norms, softmax, cross entropy, sums, Adafactor and adaptive clipping on the GPU at the sizes where their kernels change:
// against float64 on the CPU, bit for bit where sums are the CPU's, and fused against unfused. Without a GPU all skip.
#include <gtest/gtest.h>

#include <flame/flame.h>

#include <map>

#include "flame/fuse/fusion.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"
#include "tests/support/tolerances.h"

namespace flame {
namespace {

using namespace test;
using Tensors = std::vector<Tensor>;
using Fn = std::function<Tensor(const Tensors&)>;

Tensor normal(const Shape& s, DType t = DType::f32, uint64_t seed = 5) {
  Generator g(seed);
  return randn(s, {.dtype = t, .generator = &g});
}
// The result and the gradients of all inputs.
Tensors with_gradients(const Fn& fn, Tensors in) {
  for (Tensor& x : in) x.requires_grad_();
  const Tensor y = fn(in);
  Tensors out{y};
  const Tensor seed = normal(y.shape(), DType::bf16, 7).to(y.dtype()).to(y.device());
  for (const Tensor& g : grad({y}, in, {.grad_outputs = {seed}})) out.push_back(g);
  return out;
}
// The largest errors, of values and of gradients, printed as the table of tolerances has them.
struct LargestSeen : std::map<std::pair<std::string, bool>, double> {
  ~LargestSeen() {
    for (const auto& [of, units] : *this)
      std::printf("long_rows, %s, %s: %.3g roundings\n", of.first.c_str(), of.second ? "gradient" : "value", units);
  }
} largest_seen;
// Results and gradients there against float64 here, in roundings of the largest number of each.
void expect_near_float64(Device& d, const std::string& what, const Fn& fn, const Tensors& in) {
  Tensors exact, there;
  for (const Tensor& x : in) {
    exact.push_back(x.to(DType::f64));
    there.push_back(x.to(d));
  }
  const Tensors want = with_gradients(fn, exact), got = with_gradients(fn, there);
  for (size_t i = 0; i < want.size(); ++i) {
    const Deviation e = error_of(got[i], want[i]);
    const Allowed most_allowed = allowed_error(long_rows, got[i].dtype());
    EXPECT_LT(e.units, i > 0 ? most_allowed.gradient : most_allowed.value)
        << what << ", result " << i << ": " << e.text;
    double& most = largest_seen[{std::string(name_of(got[i].dtype())), i > 0}];
    most = std::max(most, e.units);
  }
}
TEST(CudaRows, LayerAndRmsNormsOfEveryLength) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16, DType::f64})
    for (const int64_t n : {1, 7, 64, 100, 768, 1000, 4096, 4097, 16384, 16392}) {
      const std::string what = std::string(name_of(t)) + " " + std::to_string(n);
      const Tensors in{normal({37, n}, t), normal({n}, t, 2), normal({n}, t, 3)};
      expect_near_float64(
          d, "layer_norm " + what, [n](const Tensors& i) { return layer_norm(i[0], {n}, i[1], i[2]); }, in);
      expect_near_float64(d, "rms_norm " + what, [n](const Tensors& i) { return rms_norm(i[0], {n}, i[1], 1e-5); },
                          {in[0], in[1]});
      expect_near_float64(d, "plain " + what, [n](const Tensors& i) { return layer_norm(i[0], {n}); }, {in[0]});
    }
  const Tensors mixed{normal({1000, 64}, DType::bf16), normal({64}), normal({64})};
  expect_near_float64(
      d, "float32 weights", [](const Tensors& i) { return layer_norm(i[0], {64}, i[1], i[2]); }, mixed);
  const Tensor whole = normal({65 * 64 + 1}).to(d);  // rows at odd places
  const Tensor odd = whole.slice(0, 1, 65 * 64 + 1).reshape({65, 64});
  EXPECT_EQ(difference(layer_norm(odd, {64}), layer_norm(odd + 0.0, {64})), "");
}

TEST(CudaRows, GroupAndBatchNorms) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16, DType::f64})
    for (const Shape& s :
         {Shape{3, 8, 5, 5}, Shape{2, 8, 16, 16}, Shape{2, 40, 32, 32}, Shape{2, 8, 75, 75}, Shape{3, 8, 128, 64},
          Shape{33, 8, 1, 1}, Shape{2, 100, 96, 96}, Shape{50, 4, 96, 96}, Shape{3, 100, 97, 57}}) {
      const std::string what = std::string(name_of(t)) + " " + to_string(s);
      const Tensors in{normal(s, t), normal({s[1]}, t, 2), normal({s[1]}, t, 3)};
      if (s[2] > 1)
        expect_near_float64(
            d, "group_norm " + what, [](const Tensors& i) { return group_norm(i[0], 2, i[1], i[2]); }, in);
      const Fn batch = [](const Tensors& i) {
        return batch_norm(i[0], State(), State(), i.size() > 1 ? i[1] : Tensor(), i.size() > 1 ? i[2] : Tensor(),
                          {.training = true});
      };
      expect_near_float64(d, "batch_norm " + what, batch, in);
      expect_near_float64(d, "batch_norm, plain " + what, batch, {in[0]});
    }
}

TEST(CudaRows, ChannelsLastBatchNorms) {
  FLAME_NEEDS_GPU(d);
  const auto last = [](const Tensor& x) { return x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2}); };
  const Fn batch = [=](const Tensors& i) {
    return batch_norm(last(i[0]), State(), State(), i.size() > 1 ? i[1] : Tensor(), i.size() > 1 ? i[2] : Tensor(),
                      {.training = true});
  };
  for (const DType t : {DType::f32, DType::bf16, DType::f64})
    for (const Shape& s : {Shape{3, 5, 1, 2}, Shape{3, 8, 5, 5}, Shape{2, 64, 33, 17}, Shape{33, 3, 7, 7},
                           Shape{2, 300, 9, 9}, Shape{2, 1024, 7, 7}, Shape{16, 64, 56, 56}}) {
      const std::string what = std::string(name_of(t)) + " " + to_string(s);
      const Tensors in{normal(s, t), normal({s[1]}, t, 2), normal({s[1]}, t, 3)};
      expect_near_float64(d, "channels-last batch_norm " + what, batch, in);
      expect_near_float64(d, "channels-last batch_norm, plain " + what, batch, {in[0]});
    }
  // What begins at an odd place gives the same bits, and a NaN spoils its channel alone.
  const Tensor odd = normal({2 * 9 * 9 * 16 + 1}).to(d);
  const Tensor x = odd.slice(0, 1, odd.numel()).reshape({2, 9, 9, 16}).permute({0, 3, 1, 2});
  const Fn plain = [](const Tensors& i) { return batch_norm(i[0], State(), State(), {}, {}, {.training = true}); };
  const Tensors there = with_gradients(plain, {x.detach()}), here = with_gradients(plain, {last(x + 0.0)});
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(difference(there[i], here[i]), "");
  std::vector<float> one(16, 1.0F);
  one[3] = std::nanf("");
  const Tensor y = plain({last(x * Tensor::from(one, {1, 16, 1, 1}).to(d))});
  EXPECT_EQ(isnan(y).to(DType::i64).sum().item(), 2 * 81);
}

// float32 gelu is within 2 ulp where it is small too; Inf, NaN and signed zeros are the CPU's.
TEST(CudaRows, GeluToTwoUlp) {
  FLAME_NEEDS_GPU(d);
  const Tensor x = cat({arange(-14.2, 14.2, 1e-5, DType::f32), normal({100'000}) * 1e-3, normal({1000}) * 1e-40});
  const std::vector<double> got = numbers(gelu(x.to(d))), want = numbers(gelu(x.to(DType::f64)));
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    int exponent = 0;
    std::frexp(want[i], &exponent);
    worst = std::max(worst, std::abs(got[i] - want[i]) / std::ldexp(1.0, std::max(exponent - 24, -149)));
  }
  std::printf("largest error of gelu: %.3f ulp\n", worst);
  EXPECT_LE(worst, 2);
  constexpr float inf = std::numeric_limits<float>::infinity();
  const Tensor special = Tensor::from(std::vector<float>{0, -0.0f, inf, -inf, std::nanf(""), 40, -40}, {7});
  EXPECT_EQ(difference(gelu(special.to(d)), gelu(special)), "");
}

// Leaves that repeat along rows go by whole packs where rows are whole packs, and give the bits of op by op either way.
TEST(CudaRows, BroadcastRows) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16, DType::f64, DType::i64, DType::u8})
    for (const Shape& s : {Shape{5, 6, 64}, Shape{5, 6, 33}, Shape{1, 7, 16}, Shape{3, 1, 24}}) {
      const Tensor x = (normal(s) * 20).to(t);
      const auto of = [&](const Shape& shape, uint64_t seed) { return (normal(shape, DType::f32, seed) * 20).to(t); };
      const Tensors others{of({s[2]}, 2),
                           of({s[1], 1}, 3),
                           of({s[0], 1, s[2]}, 4),
                           of({2 * s[2] + 1}, 5).slice(0, 1, 1 + s[2]),
                           of({s[1], 2 * s[2]}, 6).slice(1, 0, s[2]),
                           of({s[2], s[1]}, 7).t(),
                           flip(of({s[2]}, 8), {0})};
      for (size_t i = 0; i < others.size(); ++i) {
        const Tensor y = others[i];
        const Tensor here = x * y + y, there = x.to(d) * y.to(d) + y.to(d);
        EXPECT_EQ(difference(there, here), "") << name_of(t) << " " << to_string(s) << " " << i;
      }
    }
}

TEST(CudaRows, CrossEntropyOfEveryWidth) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16, DType::f64})
    for (const int64_t n : {1, 3, 130, 1000, 5001, 50257})
      for (const double smoothing : {0.0, 0.1}) {
        std::vector<int64_t> classes;
        for (int64_t i = 0; i < 20; ++i) classes.push_back(i % 5 == 4 ? -100 : (i * 7919) % n);
        for (const Reduction r : {Reduction::mean, Reduction::none}) {
          const Fn fn = [&](const Tensors& i) {
            return cross_entropy(i[0], Tensor::from(classes, {20}, i[0].device()),
                                 {.label_smoothing = smoothing, .reduction = r});
          };
          expect_near_float64(d, std::string(name_of(t)) + " " + std::to_string(n), fn, {normal({20, n}, t) * 3});
        }
      }
  // Classes that are ruled out count for nothing.
  const Tensor x = normal({4, 2000});
  const Tensor masked = where(rand({4, 2000}) < 0.5, -std::numeric_limits<double>::infinity(), x);
  const Tensor target = argmax(masked, 1);
  EXPECT_LT(error_of(cross_entropy(masked.to(d), target.to(d)), cross_entropy(masked.to(DType::f64), target)).units,
            50);
  // Logits near the end of bfloat16's range, where a multiple of one would overflow.
  const Tensor large = where(rand({4, 2000}) < 0.5, -3e38, 3e38).to(DType::bf16), of_large = argmax(large, 1);
  for (const double smoothing : {0.0, 0.1}) {
    const Fn fn = [&](const Tensors& i) {
      return cross_entropy(i[0], of_large.to(i[0].device()), {.label_smoothing = smoothing});
    };
    expect_near_float64(d, "large logits", fn, {large});
  }
}

// What stays in registers between the passes of a row does not change a bit.
TEST(CudaRows, FusedRowsAreUnfusedOnes) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16, DType::f64})
    for (const int64_t n : {1, 31, 32, 33, 64, 100, 200, 512, 1000, 1024, 1025, 2048, 2049, 3000, 4096, 5000}) {
      const Tensors in{normal({19, n}, t).to(d), normal({n}, t, 2).to(d)};
      const auto work = [](const Tensors& i) {
        const Tensor x = i[0] * i[1], m = mean(x, Axes{-1}, true), v = mean(square(x - m), Axes{-1}, true);
        return Tensors{softmax(x, -1), log_softmax(x, -1), (x - m) * rsqrt(v + 1e-5) * i[1] + tanh(x),
                       amax(x, -1),    amin(i[0], -1),     sum(exp(x) / (1 + exp(x)), -1)};
      };
      Tensors fused = work(in);
      for (const Tensor& y : fused) y.data();
      set_fusion(false);
      const Tensors alone = work(in);
      for (const Tensor& y : alone) y.data();
      set_fusion(true);
      for (size_t i = 0; i < fused.size(); ++i)
        EXPECT_EQ(difference(fused[i], alone[i]), "") << name_of(t) << " " << n << " result " << i;
      const Tensors here{in[0].to(cpu()), in[1].to(cpu())};
      EXPECT_EQ(difference(fused[3], amax(here[0] * here[1], -1)), "") << n;
      EXPECT_LT(error_of(fused[0], softmax((here[0] * here[1]).to(DType::f64), -1)).units, 10) << name_of(t) << n;
    }
}

// Copies that turn axes go by tiles, those of dense pieces by 16 bytes.
TEST(CudaRows, TurnedAndJoinedTensors) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16, DType::f64, DType::u8, DType::i64}) {
    const Tensor x = (normal({3, 70, 5, 41}) * 20).to(t), y = (normal({41, 5, 70, 3}, DType::f32, 2) * 20).to(t);
    const auto work = [](const Tensor& x, const Tensor& y) {
      Tensors all;
      for (const Dims& order : {Dims{0, 3, 2, 1}, Dims{3, 2, 1, 0}, Dims{0, 2, 3, 1}, Dims{1, 0, 3, 2}})
        all.push_back(x.permute(order).contiguous());
      const Tensor turned = x.permute({3, 2, 1, 0});
      all.push_back((turned.contiguous() + y) * turned);
      all.push_back(y + turned);
      const Tensor flat = x.reshape({210, 205});
      all.push_back(flat.slice(1, 0, 200).t().contiguous());
      all.push_back(cat({flat.slice(1, 0, 64), flat.slice(1, 100, 204), flat}, 1));
      all.push_back(cat({flat.slice(1, 0, 64), flat.slice(1, 4, 68)}, 1));
      all.push_back(cat({flat.t(), flat.t()}, 0));
      return all;
    };
    const Tensors here = work(x, y), there = work(x.to(d), y.to(d));
    for (size_t i = 0; i < here.size(); ++i)
      EXPECT_EQ(difference(there[i], here[i]), "") << name_of(t) << " result " << i;
  }
}

TEST(CudaRows, SixteenBitActivationsAreRoundedOnce) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::bf16, DType::f16}) {
    std::vector<double> all;
    for (double v = 0x1p-12; v < 100; v *= 1.01) {
      all.push_back(v);
      all.push_back(-v);
    }
    for (const double v : {0.0, HUGE_VAL, -HUGE_VAL, std::nan("")}) all.push_back(v);
    const Tensor x = Tensor::from(all, {static_cast<int64_t>(all.size())}).to(t);
    for (Tensor (*fn)(const Tensor&) :
         {+[](const Tensor& x) { return gelu(x); }, +[](const Tensor& x) { return gelu_tanh(x); },
          +[](const Tensor& x) { return silu(x); }, +[](const Tensor& x) { return sigmoid(x); },
          +[](const Tensor& x) { return softplus(x); }, +[](const Tensor& x) { return log_sigmoid(x); }}) {
      const std::vector<double> got = numbers(fn(x.to(d))), want = numbers(fn(x.to(DType::f64))),
                                special = numbers(fn(x));
      for (size_t i = 0; i < got.size(); ++i) {
        const double unit = std::max(std::abs(want[i]), t == DType::f16 ? 0x1p-14 : 0x1p-126) * rounding(t);
        if (std::isfinite(all[i])) EXPECT_LE(std::abs(got[i] - want[i]), 1.01 * unit) << all[i];
        else EXPECT_TRUE(got[i] == special[i] || (std::isnan(got[i]) && std::isnan(special[i]))) << all[i];
      }
    }
  }
}

TEST(CudaRows, LongSumsHaveTheCpusBits) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16, DType::f64, DType::i32})
    for (const Shape& s : {Shape{1'048'576}, Shape{1'048'577}, Shape{3, 3'500'001}, Shape{9'000'000}, Shape{40, 70'000},
                           Shape{3000, 1000}, Shape{2, 700, 33}, Shape{1030, 5000}, Shape{1024, 40'960}}) {
      const Tensor x = (normal(s) * 8).to(t);
      for (const Axes& axes : {Axes{}, Axes{0}, Axes{-1}}) {
        const Tensor here = sum(x, axes), there = sum(x.to(d), axes);
        EXPECT_EQ(difference(there, here), "") << name_of(t) << " " << to_string(s);
      }
      EXPECT_EQ(difference(amax(x.to(d)), amax(x)), "") << name_of(t) << " " << to_string(s);
    }
  // Several sums of one reading, each of a whole row by a block.
  const Tensor x = normal({1030, 5000}), y = x.to(d);
  const auto moments = [](const Tensor& v) { return Tensors{sum(v, Axes{1}), sum(square(v), Axes{1}), amin(v, 1)}; };
  const Tensors here = moments(x), there = moments(y);
  for (size_t i = 0; i < here.size(); ++i) EXPECT_EQ(difference(there[i], here[i]), "") << i;
}

std::vector<Shape> parameter_shapes() {
  return {Shape{3}, Shape{17, 5}, Shape{}, Shape{5000}, Shape{0, 2}, Shape{3, 4, 6}, Shape{300, 700}, Shape{129, 1}};
}
TEST(CudaRows, AdafactorAgreesWithTheCpu) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::f64, DType::bf16})
    for (const bool scaled : {false, true}) {
      std::vector<Parameter> here, there;
      for (const Shape& s : parameter_shapes()) {
        here.emplace_back(normal(s, t, 9));
        there.emplace_back(normal(s, t, 9).to(d));
      }
      const optim::AdafactorOptions o{.lr = 0.05, .weight_decay = 0.1, .scale_parameter = scaled};
      optim::Adafactor a{here, o}, b{there, o};
      for (uint64_t step = 0; step < 4; ++step) {
        for (size_t i = 0; i < here.size(); ++i) {
          const Tensor g = normal(here[i].shape(), t, 100 + step);
          here[i].set_grad(g);
          there[i].set_grad(g.to(d));
        }
        a.step();
        b.step();
      }
      for (size_t i = 0; i < here.size(); ++i) {
        const Deviation e = error_of(there[i].tensor().detach(), here[i].tensor().detach());
        EXPECT_LT(e.units, size_of(t) == 2 ? 1.1 : 20) << name_of(t) << " " << i << e.text;
      }
    }
}
TEST(CudaRows, AdaptiveClippingAgreesWithTheCpu) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::f64, DType::bf16}) {
    std::vector<Parameter> here, there;
    for (const Shape& s : parameter_shapes()) {
      here.emplace_back(normal(s, t, 9));
      there.emplace_back(normal(s, t, 9).to(d));
      here.back().set_grad(normal(s, t, 4));
      there.back().set_grad(normal(s, t, 4).to(d));
    }
    optim::clip_grad_adaptive(here, {.clip_factor = 0.3});
    optim::clip_grad_adaptive(there, {.clip_factor = 0.3});
    for (size_t i = 0; i < here.size(); ++i)
      EXPECT_LT(error_of(there[i].grad(), here[i].grad()).units, 4) << name_of(t) << " " << i;
  }
}

}  // namespace
}  // namespace flame
