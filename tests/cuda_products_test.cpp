// What follows products and convolutions inside them on a GPU: activations, their slopes and sums, against float64 on the CPU
// and against the same in single ops; buffers that are not aligned; bits that repeat; a first product inside a recording.
#include <flame/flame.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "flame/device/device_scope.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_support.h"

namespace flame {
namespace {

using namespace test;

const char* name(Activation a) { return a == Activation::relu ? "relu" : "gelu_tanh"; }
const char* text(DType t) { return name_of(t).data(); }
double allowed(DType t) { return size_of(t) == 2 ? 2 : 64; }  // of 16 bits: rounded once forward, a few times backward

Tensor drawn(const Shape& s, DType t, uint64_t seed) {
  Generator g(seed);
  return randn(s, {.dtype = t, .device = &cpu(), .generator = &g});
}

using Fn = std::function<Tensor(const std::vector<Tensor>&)>;
// The result and the gradients to all inputs, for fixed incoming ones.
std::vector<Tensor> all_of(const Fn& fn, const std::vector<Tensor>& in, Device& d, DType t) {
  std::vector<Tensor> leaves;
  for (const Tensor& x : in) leaves.push_back(x.to(t).to(d).detach().requires_grad_());
  const Tensor y = fn(leaves);
  std::vector<Tensor> out{y.detach()};
  const Tensor g = (round(drawn(y.shape(), DType::f32, 99) * 4) / 4).to(t).to(d);  // no dtype rounds it
  for (const Tensor& x : grad({y}, leaves, {.grad_outputs = {g}})) out.push_back(x.to(cpu()));
  out[0] = out[0].to(cpu());
  return out;
}
// Prints the largest error of each of `got`, in roundings, against float64 on the CPU.
void expect_near(const char* what, DType t, const Fn& fn, const std::vector<Tensor>& in, Device& d, double more = 1) {
  const std::vector<Tensor> got = all_of(fn, in, d, t), want = all_of(fn, in, cpu(), DType::f64);
  std::printf("%s, %s: units", what, text(t));
  for (size_t i = 0; i < got.size(); ++i) {
    const Deviation e = error_of(got[i], want[i]);
    std::printf(" %.2f", e.units);
    EXPECT_LT(e.units, more * allowed(t)) << what << " " << text(t) << " result " << i << " " << e.text;
  }
  std::printf("\n");
}

TEST(CudaEpilogues, ActivationsOfProducts) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::f64, DType::f16, DType::bf16})
    for (const Activation a : {Activation::relu, Activation::gelu_tanh})
      for (const int64_t out : {80, 19}) {
        const std::vector<Tensor> in{drawn({64, 48}, t, 1), drawn({out, 48}, t, 2) * 0.2, drawn({out}, t, 3)};
        const uint64_t before = tuning_counts().fused_products;
        const Fn fn = [a](const auto& x) { return linear(x[0], x[1], x[2], {.activation = a}); };
        const Fn bare = [a](const auto& x) { return linear(x[0], x[1], {}, {.activation = a}); };
        expect_near("linear", t, fn, in, d);
        expect_near("linear without bias", t, bare, {in[0], in[1]}, d);
        std::printf("  %s of %lld columns, %s: %llu plans of cuBLASLt's\n", name(a), static_cast<long long>(out),
                    text(t), static_cast<unsigned long long>(tuning_counts().fused_products - before));
        EXPECT_TRUE(size_of(t) != 2 || out != 80 || tuning_counts().fused_products >= before + 2) << text(t);
      }
}

TEST(CudaEpilogues, SlopesAndSumsOfFeedForward) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::f64, DType::f16, DType::bf16})
    for (const Activation a : {Activation::relu, Activation::gelu_tanh})
      for (const int64_t hidden : {96, 21}) {
        const std::vector<Tensor> in{drawn({2, 40, 32}, t, 1), drawn({hidden, 32}, t, 2) * 0.2, drawn({hidden}, t, 3),
                                     drawn({48, hidden}, t, 4) * 0.2, drawn({48}, t, 5)};
        const uint64_t before = tuning_counts().fused_products;
        const Fn fn = [a](const auto& x) { return feed_forward(x[0], x[1], x[2], x[3], x[4], {.activation = a}); };
        expect_near("feed_forward", t, fn, in, d, 2);
        const uint64_t fused = tuning_counts().fused_products - before;
        std::printf("  %s, %lld between, %s: %llu plans of cuBLASLt's\n", name(a), static_cast<long long>(hidden),
                    text(t), static_cast<unsigned long long>(fused));
        EXPECT_TRUE(size_of(t) != 2 || hidden != 96 || fused >= 2) << "the activation and its slope, " << text(t);
      }
}

// gelu_tanh and its slope number by number, where the tail is small and where squares are infinite. cuBLASLt's, of 16 bits, is
// held to roundings of numbers of size 1 and no more; the next test looks at those alone.
TEST(CudaEpilogues, GeluKeepsItsTails) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::f64, DType::bf16}) {
    std::vector<double> points;
    for (double x = -7.5; x <= 7.5; x += 0.125) points.push_back(x);
    const double far = t == DType::f32 ? 0x1p70 : 0x1p600;
    if (t != DType::bf16) points.insert(points.end(), {-1e4, 1e4, -far, far});
    const int64_t n = static_cast<int64_t>(points.size());
    const Tensor x = Tensor::from(points, {n, 1}, cpu()).to(t).to(d).detach().requires_grad_();
    const Tensor w1 = full({8, 1}, 1, t, d),
                 w2 = Tensor::from(std::vector<double>{1, 0, 0, 0, 0, 0, 0, 0}, {1, 8}, cpu()).to(t).to(d);
    const Tensor y = feed_forward(x, w1, {}, w2, {}, {.activation = Activation::gelu_tanh});
    const Tensor g = grad({y}, {x}, {.grad_outputs = {full({n, 1}, 1, t, d)}})[0];
    const std::vector<double> values = numbers(y.to(cpu())), slopes = numbers(g.to(cpu()));
    const double unit = 2 * rounding(t) * (t == DType::f64 ? 128 : 1), least = t == DType::bf16 ? 1 : 0;
    for (size_t i = 0; i < points.size(); ++i) {
      const double p = points[i], w = 1.5957691216057308 * p * (1 + 0.044715 * p * p), e = std::exp(-std::abs(w));
      const double s = (w >= 0 ? 1 : e) / (1 + e), rest = e / (1 + e) / (1 + e);
      const double more = rest == 0 ? 0 : 1.5957691216057308 * p * (1 + 3 * 0.044715 * p * p) * rest;
      EXPECT_NEAR(values[i], p * s, unit * std::max(std::abs(p * s), least) + 1e-37) << text(t) << " of " << p;
      EXPECT_NEAR(slopes[i], s + more, unit * std::max(s + std::abs(more), least) + 1e-37) << text(t) << " at " << p;
    }
  }
}

// gelu_tanh of 16 bits and its slope, near 0 and as far out as the dtype goes: cuBLASLt's to roundings of numbers of size 1,
// own kernels' to roundings of each number. cuBLASLt's slope is NaN from 2^66 on, as PyTorch's, where own ones still hold.
TEST(CudaEpilogues, GeluOfSixteenBitsFarOut) {
  FLAME_NEEDS_GPU(d);
  set_deterministic(true);  // cuBLASLt's, whatever is faster
  for (const DType t : {DType::bf16, DType::f16})
    for (const int64_t hidden : {16, 19}) {
      const bool own = hidden == 19;  // no row of an odd number of columns is kept by cuBLASLt
      std::vector<double> points;
      for (double x = -12; x <= 12; x += 0.0625) points.push_back(x);
      for (double x = 16; x <= (t == DType::f16 ? 0x1p15 : own ? 0x1p126 : 0x1p64); x *= 2)
        points.insert(points.end(), {x, -x});
      const int64_t n = static_cast<int64_t>(points.size());
      const auto first_of = [&](const std::vector<double>& values, int64_t rows, int64_t columns) {
        std::vector<double> all(static_cast<size_t>(rows * columns));
        for (size_t i = 0; i < values.size(); ++i) all[i * static_cast<size_t>(columns)] = values[i];
        return Tensor::from(all, {rows, columns}, cpu()).to(t).to(d).detach();
      };
      const Tensor x = first_of(points, n, 8).requires_grad_(), w1 = first_of({1}, hidden, 8),
                   w2 = first_of({1}, 8, hidden);
      const TuningCounts before = tuning_counts();
      const Tensor y = feed_forward(x, w1, {}, w2, {}, {.activation = Activation::gelu_tanh});
      const Tensor g = grad({y}, {x}, {.grad_outputs = {first_of(std::vector<double>(points.size(), 1), n, 8)}})[0];
      const std::vector<double> values = numbers(y.to(cpu())), slopes = numbers(g.to(cpu()));
      const TuningCounts after = tuning_counts();
      EXPECT_EQ(after.epilogues - before.epilogues, own ? 0u : 2u) << text(t);
      EXPECT_EQ(after.epilogue_kernels - before.epilogue_kernels, own ? 2u : 0u) << text(t);
      double worst = 0;
      for (size_t i = 0; i < points.size(); ++i) {
        const double p = points[i], w = 1.5957691216057308 * p * (1 + 0.044715 * p * p), e = std::exp(-std::abs(w));
        const double s = (w >= 0 ? 1 : e) / (1 + e), rest = e / (1 + e) / (1 + e);
        const double more = rest == 0 ? 0 : 1.5957691216057308 * p * (1 + 3 * 0.044715 * p * p) * rest;
        const auto expect = [&](const char* what, double got, double want, double size) {
          const double unit = rounding(t) * std::max(size, own ? 0x1p-14 : 1.0);
          worst = std::max(worst, std::abs(got - want) / unit);
          EXPECT_NEAR(got, want, 2 * unit) << what << " " << text(t) << " at " << p << ", hidden " << hidden;
        };
        expect("value", values[i * 8], p * s, std::abs(p * s));
        expect("slope", slopes[i * 8], s + more, s + std::abs(more));
      }
      std::printf("gelu_tanh of %s, %s: %.2f roundings\n", text(t), own ? "own" : "cuBLASLt's", worst);
    }
  set_deterministic(false);
}

// One launch a product: nothing follows them.
TEST(CudaEpilogues, LaunchCounts) {
  FLAME_NEEDS_GPU(d);
  const DType t = DType::bf16;
  for (const Activation a : {Activation::relu, Activation::gelu_tanh}) {
    std::vector<Tensor> in;
    for (const Shape& s : {Shape{64, 32}, Shape{128, 32}, Shape{128}, Shape{64, 128}, Shape{64}})
      in.push_back(drawn(s, t, in.size()).to(d).requires_grad_());
    const Tensor g = drawn({64, 64}, t, 9).to(d);
    const auto step = [&] {
      const uint64_t start = stats().launches;
      const Tensor y = feed_forward(in[0], in[1], in[2], in[3], in[4], {.activation = a});
      const uint64_t forward = stats().launches - start;
      for (const Tensor& x : grad({y}, in, {.grad_outputs = {g}})) x.data();
      return std::pair(forward, stats().launches - start - forward);
    };
    set_deterministic(true);  // an algorithm of cuBLASLt's, whatever is faster
    step();
    const TuningCounts before = tuning_counts();
    const auto [forward, backward] = step();
    const TuningCounts after = tuning_counts();
    set_deterministic(false);
    EXPECT_EQ(forward, 2u) << name(a);
    EXPECT_EQ(backward, 4u) << name(a) << ": the hidden gradient, one a weight with its bias, the gradient to x";
    const bool summed =
        a == Activation::gelu_tanh;  // by two kernels behind its slope, in the place of a product's sums
    EXPECT_EQ(after.epilogues - before.epilogues, summed ? 3u : 4u) << name(a) << ": the activation, its slope, sums";
    EXPECT_EQ(after.epilogue_kernels - before.epilogue_kernels, summed ? 2u : 0u) << name(a);
    no_grad([&] {
      const uint64_t start = stats().launches;
      linear(in[0], in[1], in[2], {.activation = a}).data();
      EXPECT_EQ(stats().launches - start, 1u) << name(a);
    });
  }
}

template <class Conv>
void expect_relu(const char* what, DType t, Device& d, const Conv& conv, const std::vector<Tensor>& in) {
  const uint64_t before = tuning_counts().fused_convolutions;
  const Fn fused = [&](const auto& x) { return conv(x, Activation::relu); },
           apart = [&](const auto& x) { return relu(conv(x, Activation::none)); };
  expect_near(what, t, fused, in, d);
  std::printf("  %s, %s: %s\n", what, text(t),
              tuning_counts().fused_convolutions > before ? "by cuDNN" : "by a kernel of ours");
  const std::vector<Tensor> one = all_of(fused, in, d, t), other = all_of(apart, in, d, t);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_LT(error_of(one[i], other[i]).units, 2 * allowed(t)) << what << i;
}

// Whole numbers and halves, so that 16 bits hold every sum: beside the kink, a rounding would change which gradients pass.
Tensor whole(const Shape& s, uint64_t seed) { return round(drawn(s, DType::f32, seed)); }

TEST(CudaEpilogues, ReluOfConvolutions) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    const std::vector<Tensor> in{whole({4, 16, 10, 10}, 1), whole({32, 16, 3, 3}, 2), whole({32}, 3) + 0.5};
    const auto bare = [](const auto& x, Activation a) { return conv2d(x[0], x[1], {}, {.activation = a}); };
    const auto biased = [](const auto& x, Activation a) {
      return conv2d(x[0], x[1], x[2], {.padding = 1, .activation = a});
    };
    expect_relu("conv2d with a bias", t, d, biased, in);
    expect_relu("conv2d without", t, d, bare, {in[0], in[1]});
  }
  const auto line = [](const auto& x, Activation a) { return conv1d(x[0], x[1], x[2], {.activation = a}); };
  expect_relu("conv1d", DType::bf16, d, line, {whole({4, 16, 20}, 1), whole({32, 16, 3}, 2), whole({32}, 3) + 0.5});
}

TEST(CudaConvolutions, BuffersAnywhere) {
  FLAME_NEEDS_GPU(d);
  for (const DType t : {DType::f32, DType::bf16}) {
    const Tensor whole = drawn({3, 5, 5, 3}, t, 1), filters = drawn({6, 3, 3, 3}, t, 2) * 0.2,
                 offsets = drawn({6}, t, 3);
    const auto parts = [](const Tensor& x, const Tensor& w, const Tensor& b) {
      return conv2d(x.permute({0, 3, 1, 2}).slice(0, 1, 3), w.slice(0, 1, 6), b.slice(0, 1, 6), {.padding = 1});
    };
    const uint64_t before = tuning_counts().aligned_copies;
    const Tensor got = parts(whole.to(d), filters.to(d), offsets.to(d)).to(cpu());
    const uint64_t copies = tuning_counts().aligned_copies - before;
    const DType wide = DType::f64;
    EXPECT_LT(error_of(got, parts(whole.to(wide), filters.to(wide), offsets.to(wide))).units, allowed(t)) << text(t);
    EXPECT_EQ(copies, 3u) << text(t) << ": x, weight and bias start between two places";
  }
}

// Filters that lie channels-last need no copy, and their gradients lie so too; the bits are those of filters that are turned.
TEST(CudaConvolutions, FiltersOfEitherLayout) {
  FLAME_NEEDS_GPU(d);
  set_deterministic(true);
  for (const DType t : {DType::f32, DType::bf16})
    for (const Shape& s : {Shape{48, 16, 3, 3}, Shape{16, 72, 5, 5}, Shape{8, 8, 9, 8}, Shape{8, 6000, 1, 3}}) {
      const Tensor x = drawn({2, 10, 12, s[1]}, t, 1).to(d).permute({0, 3, 1, 2}).detach().requires_grad_(),
                   w = drawn({s[0], s[2], s[3], s[1]}, t, 2).to(d).permute({0, 3, 1, 2}).detach().requires_grad_(),
                   turned = w.detach().contiguous().detach().requires_grad_();
      std::vector<Tensor> all[2];
      for (const Tensor* of : {&w, &turned}) {
        const auto launches = [start = stats().launches] { return stats().launches - start; };
        const uint64_t turns = of == &turned && numel(s) <= 1 << 17;  // small filters, by launches of their own
        const Tensor y = conv2d(x, *of), g = y.detach();
        y.data();
        EXPECT_EQ(launches(), 1 + turns);
        const std::vector<Tensor> gradients = grad({y}, {x, *of}, {.grad_outputs = {g}});
        for (const Tensor& v : gradients) v.data();
        EXPECT_EQ(launches(), 3 + 2 * turns);
        EXPECT_EQ(is_contiguous(s, gradients[1].strides()), of == &turned);
        all[of == &turned] = {y.detach().to(cpu()), gradients[0].to(cpu()), gradients[1].contiguous().to(cpu())};
      }
      for (size_t i = 0; i < 3; ++i)
        EXPECT_EQ(difference(all[0][i], all[1][i]), "") << text(t) << " " << s[1] << " " << i;
    }
  set_deterministic(false);
}

// Ten times the same bits where it is asked for; among the candidates for that, none whose sums have no order.
TEST(CudaDeterminism, GradientsOfConvolutionsAndProductsRepeat) {
  FLAME_NEEDS_GPU(d);
  struct Case {
    const char* name;
    std::vector<Shape> in;
    Fn fn;
  };
  const Case cases[] = {
      {"conv1d", {{4, 8, 40}, {16, 8, 3}, {16}}, [](const auto& x) { return conv1d(x[0], x[1], x[2]); }},
      {"conv2d", {{4, 8, 12, 12}, {16, 8, 3, 3}, {16}}, [](const auto& x) { return conv2d(x[0], x[1], x[2]); }},
      {"conv2d relu",
       {{4, 8, 12, 12}, {16, 8, 3, 3}, {16}},
       [](const auto& x) { return conv2d(x[0], x[1], x[2], {.activation = Activation::relu}); }},
      {"conv3d", {{2, 4, 6, 6, 6}, {8, 4, 3, 3, 3}, {8}}, [](const auto& x) { return conv3d(x[0], x[1], x[2]); }},
      {"grouped",
       {{4, 8, 12, 12}, {16, 2, 3, 3}, {16}},
       [](const auto& x) { return conv2d(x[0], x[1], x[2], {.groups = 4}); }},
      {"transposed",
       {{4, 8, 6, 6}, {8, 4, 3, 3}, {4}},
       [](const auto& x) { return conv_transpose2d(x[0], x[1], x[2], {.stride = 2}); }},
      {"feed_forward",
       {{8, 2048}, {16, 2048}, {16}, {8, 16}, {8}},
       [](const auto& x) { return feed_forward(x[0], x[1], x[2], x[3], x[4], {.activation = Activation::gelu_tanh}); }},
  };
  for (const DType t : {DType::f32, DType::bf16})
    for (const Case& c : cases) {
      std::vector<Tensor> in;
      for (const Shape& s : c.in) in.push_back(drawn(s, t, in.size() + 1) * 0.3);
      const uint64_t before = tuning_counts().unordered;
      all_of(c.fn, in, d, t);  // as fast as it goes
      const uint64_t timed = tuning_counts().unordered - before;
      set_deterministic(true);
      const TuningCounts start = tuning_counts();
      const std::vector<Tensor> first = all_of(c.fn, in, d, t);
      for (int i = 1; i < 10; ++i) {
        const std::vector<Tensor> again = all_of(c.fn, in, d, t);
        for (size_t k = 0; k < first.size(); ++k) EXPECT_EQ(difference(again[k], first[k]), "") << c.name << " " << k;
      }
      set_deterministic(false);
      EXPECT_EQ(tuning_counts().keys, start.keys) << c.name;
      std::printf("%s, %s: %llu candidates without order left out before, %llu here\n", c.name, text(t),
                  static_cast<unsigned long long>(timed),
                  static_cast<unsigned long long>(tuning_counts().unordered - start.unordered));
    }
  EXPECT_GT(tuning_counts().unordered, 0u) << "cuDNN offered none; then the filter was not tried";
}

// Forward and backward of a transformer's feed-forward part, in one op and in single ones; a layer's gradients likewise.
double milliseconds(Device& d, const std::function<void()>& fn) {
  std::vector<double> ms;
  for (int i = 0; i < 12; ++i) {
    d.synchronize();
    const auto start = std::chrono::steady_clock::now();
    fn();
    d.synchronize();
    ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(ms.begin(), ms.end());
  return ms[ms.size() / 2];
}
TEST(DISABLED_CudaEpilogues, Times) {
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  for (const Activation a : {Activation::relu, Activation::gelu_tanh}) {
    std::vector<Tensor> in;
    for (const Shape& s : {Shape{8192, 1024}, Shape{4096, 1024}, Shape{4096}, Shape{1024, 4096}, Shape{1024}})
      in.push_back(drawn(s, DType::bf16, in.size()).to(d).requires_grad_());
    const Tensor g = drawn({8192, 1024}, DType::bf16, 9).to(d);
    const auto time = [&](const char* what, const Fn& fn) {
      const double ms = milliseconds(d, [&] {
        const Tensor y = fn(in);
        for (const Tensor& x : grad({y}, in, {.grad_outputs = {g}})) x.data();
      });
      std::printf("%s, %s: %.3f ms\n", what, name(a), ms);
    };
    time("feed_forward", [a](const auto& x) { return feed_forward(x[0], x[1], x[2], x[3], x[4], {.activation = a}); });
    time("linear with activation, linear",
         [a](const auto& x) { return linear(linear(x[0], x[1], x[2], {.activation = a}), x[3], x[4]); });
    time("linear, activation, linear",
         [a](const auto& x) { return linear(activate(linear(x[0], x[1], x[2]), a), x[3], x[4]); });
  }
  for (const DType t : {DType::bf16, DType::f32}) {
    const Tensor x = drawn({8192, 1024}, t, 1).to(d), g = drawn({8192, 2048}, t, 2).to(d),
                 w = drawn({2048, 1024}, t, 3).to(d).requires_grad_(), b = drawn({2048}, t, 4).to(d).requires_grad_();
    const Tensor y = linear(x, w, b);
    const double one = milliseconds(d, [&] {
      grad({y}, {w, b}, {.grad_outputs = {g}, .retain_graph = true})[0].data();
    });
    const double two = milliseconds(d, [&] {
      matmul(g.t(), x).data();
      g.sum({0}).data();
    });
    std::printf("weight and bias in one product, %s: %.3f ms\n", text(t), one);
    std::printf("a product and a sum, %s: %.3f ms\n", text(t), two);
  }
}

// The first product of a process, inside a recording: the library's memory is no part of it.
TEST(DISABLED_CudaFirstProductWorker, Run) {
  FLAME_NEEDS_GPU(d);
  DeviceScope scope(d);
  const Tensor a = full({64, 64}, 0.5), b = full({64, 64}, 2);
  auto step = record([](const Tensor& x, const Tensor& y) { return matmul(x, y); });
  double last = 0;
  for (int i = 0; i < 5; ++i) last = step(a, b).sum().item();
  std::printf("worker: %s, sum %.0f\n", stats().replays > 1 ? "replayed" : "not replayed", last);
}
TEST(CudaProducts, AFirstProductMayBeRecorded) {
  FLAME_NEEDS_GPU(d);
  const Output out = run_worker("DISABLED_CudaFirstProductWorker.Run");
  EXPECT_NE(out.text.find("worker: replayed, sum 262144"), std::string::npos) << out.text;
}

}  // namespace
}  // namespace flame
