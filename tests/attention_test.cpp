// Attention: tiles against composed ops, memory, dropout, threads, masked rows; rope; the norms that are built like it.
#include <cmath>

#include "flame/flame.h"
#include "tests/support/compare.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using test::difference;
using Inputs = std::vector<Tensor>;
constexpr double none = -std::numeric_limits<double>::infinity();

Tensor noise(const Shape& s, uint64_t seed, DType t = DType::f64) {
  Generator g(seed);
  return normal(s, 0, 1, {.dtype = t, .generator = &g});
}

// Composed, with the scores built: q, k, v [B, H, L, E]; `keep` multiplies the weights.
Tensor reference(const Tensor& q, const Tensor& k, const Tensor& v, double scale, const Tensor& bias = {},
                 const Tensor& keep = {}) {
  Tensor s = matmul(q, k.t()) * scale;
  if (bias.defined()) s = s + bias;
  Tensor p = softmax(s, -1);
  if (keep.defined()) p = p * keep;
  return matmul(p, v);
}
Tensor causal_bias(int64_t rows, int64_t keys, DType t = DType::f64) {
  const Tensor i = arange(0, rows, 1, DType::i64).reshape({rows, 1}), j = arange(0, keys, 1, DType::i64);
  return where(i >= j, zeros({rows, keys}, t), none);
}

Inputs gradients(const Tensor& y, const Inputs& in) {
  return grad({y}, in, {.grad_outputs = {noise(y.shape(), 77, y.dtype())}, .retain_graph = true});
}
void expect_near(const Tensor& a, const Tensor& b, double tolerance) {
  ASSERT_EQ(a.shape(), b.shape());
  EXPECT_LE(a.numel() ? amax(abs(a.detach() - b.detach())).item() : 0, tolerance);
}

TEST(Attention, MatchesComposedOpsAcrossTiles) {
  for (const auto& [rows, keys, width, depth] :
       std::vector<std::array<int64_t, 4>>{{1, 1, 1, 1}, {33, 47, 5, 7}, {300, 200, 16, 40}, {130, 700, 33, 9}})
    for (bool causal : {false, true}) {
      Inputs in{noise({2, 2, rows, width}, 1), noise({2, 2, keys, width}, 2), noise({2, 2, keys, depth}, 3)};
      for (Tensor& x : in) x.requires_grad_();
      const Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], {.causal = causal});
      const Tensor z = reference(in[0], in[1], in[2], 1 / std::sqrt(static_cast<double>(width)),
                                 causal ? causal_bias(rows, keys) : Tensor());
      expect_near(y, z, 1e-13);
      const Inputs g = gradients(y, in), h = gradients(z, in);
      for (size_t i = 0; i < 3; ++i) expect_near(g[i], h[i], 2e-13 * std::sqrt(static_cast<double>(rows)));
    }
}

TEST(Attention, OneLaunchEachWay) {
  Inputs in{noise({2, 4, 64, 16}, 1, DType::f32), noise({2, 4, 64, 16}, 2, DType::f32),
            noise({2, 4, 64, 16}, 3, DType::f32)};
  for (Tensor& x : in) x.requires_grad_();
  const Tensor seed = noise({2, 4, 64, 16}, 4, DType::f32);
  Stats before = stats();
  const Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], {.causal = true});
  EXPECT_EQ(stats().launches - before.launches, 1u);
  before = stats();
  const Inputs g = grad({y}, in, {.grad_outputs = {seed}});
  EXPECT_EQ(stats().launches - before.launches, 1u);
}

// Parts of one tensor, however they lie in it, give their gradients as one: bit for bit those of tensors apart, and no copy.
TEST(Attention, GradientsOfPartsAreOneTensor) {
  using Part = std::function<Inputs(const Tensor&)>;
  const auto heads = [](const Tensor& x, int64_t n) { return x.reshape({2, 70, n, 8}).transpose(1, 2); };
  const struct {
    Shape shape;
    Part part;
    AttentionOptions options;
  } cases[] = {
      {{2, 70, 72},
       [&](const Tensor& x) {
         const Inputs p = chunk(x, 3, -1);
         return Inputs{heads(p[0], 3), heads(p[1], 3), heads(p[2], 3)};
       },
       {.causal = true}},
      {{2, 70, 3, 24}, [](const Tensor& x) { return chunk(x.transpose(1, 2), 3, -1); }, {}},
      {{6, 3, 70, 8}, [](const Tensor& x) { return chunk(x, 3, 0); }, {.causal = true}},
      {{2, 70, 64},
       [&](const Tensor& x) {
         const Inputs p = split(x, Dims{32, 16, 16}, -1);
         return Inputs{heads(p[0], 4), heads(p[1], 2), heads(p[2], 2)};
       },
       {.grouped_query = true}},
  };
  for (const auto& c : cases)
    for (const DType t : {DType::f32, DType::bf16}) {
      Tensor x = noise(c.shape, 1, t).requires_grad_();
      const Inputs in = c.part(x);
      Inputs apart;
      for (const Tensor& part : in) apart.push_back((part.detach() * 1).requires_grad_());
      const Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], c.options),
                   z = scaled_dot_product_attention(apart[0], apart[1], apart[2], c.options);
      const Tensor seed = noise(y.shape(), 2, t);
      y.data(), z.data(), seed.data();
      const Stats before = stats();
      const Inputs g = grad({y}, {x, in[0], in[1], in[2]}, {.grad_outputs = {seed}});
      EXPECT_EQ(stats().launches - before.launches, 1u);
      const Inputs h = grad({z}, apart, {.grad_outputs = {seed}}), of_x = c.part(g[0]);
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_TRUE(test::same_bits(g[i + 1], h[i]));
        EXPECT_TRUE(test::same_bits(of_x[i], h[i]));
      }
    }
}

TEST(Attention, GradientsOfKeysAndValuesAreOneTensor) {
  Tensor q = noise({2, 3, 40, 8}, 1).requires_grad_(), x = noise({2, 3, 50, 20}, 2).requires_grad_();
  const Inputs kv = split(x, Dims{8, 12}, -1);
  const Tensor y = scaled_dot_product_attention(q, kv[0], kv[1]), seed = noise(y.shape(), 3);
  seed.data();
  const Stats before = stats();
  const Inputs g = grad({y}, {q, x}, {.grad_outputs = {seed}});
  EXPECT_EQ(stats().launches - before.launches, 1u);
  Inputs apart{q.detach(), kv[0].detach() * 1, kv[1].detach() * 1};
  for (Tensor& t : apart) t.requires_grad_();
  const Inputs h = grad({scaled_dot_product_attention(apart[0], apart[1], apart[2])}, apart, {.grad_outputs = {seed}});
  EXPECT_TRUE(test::same_bits(g[0], h[0]));
  EXPECT_TRUE(test::same_bits(g[1], cat({h[1], h[2]}, -1)));
}

// The scores alone would be 2 GiB in float32.
TEST(Attention, NeverBuildsTheScores) {
  const int64_t rows = 16384, heads = 2, width = 16;
  Inputs in;
  for (uint64_t i = 0; i < 3; ++i) in.push_back(noise({1, heads, rows, width}, i, DType::f32).requires_grad_());
  const Tensor seed = noise({1, heads, rows, width}, 9, DType::f32);
  for (const Tensor& x : in) x.data();
  const size_t one = static_cast<size_t>(rows * heads * width) * 4;
  reset_peak_memory();
  const size_t before = memory_stats().allocated;
  const Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], {.causal = true, .dropout = 0.1});
  const Inputs g = grad({y}, in, {.grad_outputs = {seed}});
  const size_t extra = memory_stats().peak - before - 4 * one;  // the output and three gradients
  std::printf("peak beside inputs, outputs and gradients: %.1f MiB\n", static_cast<double>(extra) / (1 << 20));
  EXPECT_LT(extra, size_t{256} << 20);
  EXPECT_GE(memory_stats().peak - before, 4 * one);
  EXPECT_TRUE(all(isfinite(g[0])).item<bool>());
}

TEST(Attention, MasksOfEveryShape) {
  const int64_t b = 2, h = 3, rows = 37, keys = 210;
  Inputs in{noise({b, h, rows, 4}, 1), noise({b, h, keys, 4}, 2), noise({b, h, keys, 4}, 3)};
  for (Tensor& x : in) x.requires_grad_();
  for (const Shape& s : {Shape{}, Shape{keys}, Shape{rows, 1}, Shape{rows, keys}, Shape{h, 1, keys},
                         Shape{b, 1, 1, keys}, Shape{b, h, rows, keys}}) {
    const Tensor bias = noise(s, 5);
    Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], {.mask = bias, .causal = true, .scale = 0.7});
    Tensor z = reference(in[0], in[1], in[2], 0.7, bias + causal_bias(rows, keys));
    expect_near(y, z, 1e-13);
    Inputs g = gradients(y, in), w = gradients(z, in);
    for (size_t i = 0; i < 3; ++i) expect_near(g[i], w[i], 1e-12);
    if (s.empty()) continue;
    const Tensor keep = logical_or(bias > -0.3, (arange(0, s.back(), 1, DType::i64) == 0));  // key 0 always
    y = scaled_dot_product_attention(in[0], in[1], in[2], {.mask = keep});
    z = reference(in[0], in[1], in[2], 0.5, where(keep, zeros(s, DType::f64), none));
    expect_near(y, z, 1e-13);
    g = gradients(y, in);
    w = gradients(z, in);
    for (size_t i = 0; i < 3; ++i) expect_near(g[i], w[i], 1e-12);
  }
}

TEST(Attention, RowsWithoutKeysGiveZeros) {
  Inputs in{noise({1, 1, 3, 4}, 1), noise({1, 1, 5, 4}, 2), noise({1, 1, 5, 2}, 3)};
  for (Tensor& x : in) x.requires_grad_();
  const Tensor keep = (arange(0, 3, 1, DType::i64) != 1).reshape({3, 1});
  for (const Tensor& mask : {keep, where(keep, zeros({3, 1}, DType::f64), none)}) {
    const Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], {.mask = mask});
    EXPECT_EQ(y.detach().select(2, 1).to_vector<double>(), (std::vector<double>{0, 0}));
    const Inputs g = gradients(y, in);
    EXPECT_EQ(g[0].select(2, 1).to_vector<double>(), (std::vector<double>(4, 0)));
    for (const Tensor& x : g) EXPECT_TRUE(all(isfinite(x)).item<bool>());
    const Inputs again = grad({y}, in, {.grad_outputs = {noise(y.shape(), 77)}, .create_graph = true});
    for (size_t i = 0; i < 3; ++i) expect_near(again[i], g[i], 1e-14);
  }
}

// What a bool mask leaves out has no say, be its score Inf or NaN; an additive -Inf passes a NaN on, as in PyTorch.
TEST(Attention, ABoolMaskSelects) {
  const int64_t rows = 40, keys = 210;
  const Tensor keep = (remainder(arange(0, keys, 1, DType::i64), 7) != 3);
  for (DType t : {DType::f32, DType::f64}) {
    const double huge = t == DType::f32 ? 1e30 : 1e200;  // overflows in a product: Inf, and Inf - Inf along odd rows
    const Tensor sign = where(remainder(arange(0, rows, 1, DType::i64).reshape({rows, 1}), 2) == 0, 1.0, -1.0).to(t);
    Inputs in{cat({full({rows, 1}, huge, t), sign * huge}, 1).reshape({1, 1, rows, 2}),
              noise({1, 1, keys, 2}, 2, t) / huge, noise({1, 1, keys, 3}, 3, t)};
    const Tensor there = keep.reshape({1, 1, keys, 1});
    const Tensor calm = where(there, in[1], 0.0);
    in[1] = where(there, in[1], huge);
    for (Tensor& x : in) x.requires_grad_();
    Tensor small = calm.detach().requires_grad_();
    const Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], {.mask = keep});
    const Tensor z = scaled_dot_product_attention(in[0], small, in[2], {.mask = keep});
    EXPECT_TRUE(all(isfinite(z)).item<bool>());
    EXPECT_EQ(difference(y, z), "");
    const Inputs g = gradients(y, in), w = gradients(z, {in[0], small, in[2]});
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(difference(g[i], w[i]), "") << "input " << i;
    EXPECT_EQ(sum(abs(where(there, 0.0, g[1]))).item(), 0);
    const Inputs again = grad({y}, in, {.grad_outputs = {noise(y.shape(), 77, t)}, .create_graph = true});
    for (const Tensor& x : again) EXPECT_TRUE(all(isfinite(x)).item<bool>());
    const Tensor additive = where(keep, zeros({keys}, t), none);
    EXPECT_FALSE(all(isfinite(scaled_dot_product_attention(in[0], in[1], in[2], {.mask = additive}))).item<bool>());
  }
}

TEST(Attention, GroupedQueriesShareHeads) {
  const Tensor q = noise({2, 6, 20, 8}, 1).requires_grad_();
  for (int64_t shared : {1, 2, 3}) {
    const Tensor k = noise({2, shared, 30, 8}, 2).requires_grad_(), v = noise({2, shared, 30, 5}, 3).requires_grad_();
    const auto repeated = [&](const Tensor& x) {
      const int64_t d = x.size(-1);
      return x.unsqueeze(2).expand({2, shared, 6 / shared, 30, d}).reshape({2, 6, 30, d});
    };
    const Tensor y = scaled_dot_product_attention(q, k, v, {.causal = true, .grouped_query = true});
    const Tensor z = reference(q, repeated(k), repeated(v), 1 / std::sqrt(8.0), causal_bias(20, 30));
    expect_near(y, z, 1e-13);
    const Inputs g = gradients(y, {q, k, v}), w = gradients(z, {q, k, v});
    for (size_t i = 0; i < 3; ++i) expect_near(g[i], w[i], 1e-12);
  }
}

TEST(Attention, DropoutIsBernoulliDrawnAgain) {
  Inputs in{noise({2, 2, 35, 4}, 1), noise({2, 2, 201, 4}, 2), noise({2, 2, 201, 4}, 3)};
  for (Tensor& x : in) x.requires_grad_();
  Generator a(5), b(5);
  const Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], {.dropout = 0.3, .generator = &a});
  const Tensor keep = bernoulli({2, 2, 35, 201}, 0.7, {.generator = &b}).to(DType::f64) * (1 / 0.7);
  const Tensor z = reference(in[0], in[1], in[2], 0.5, {}, keep);
  expect_near(y, z, 1e-13);
  EXPECT_EQ(a.state(), b.state());
  rand({3}, {.generator = &a});  // later draws leave this call's numbers alone
  const Inputs w = gradients(z, in);
  Inputs g = gradients(y, in);
  for (size_t i = 0; i < 3; ++i) expect_near(g[i], w[i], 1e-12);
  g = grad({y}, in, {.grad_outputs = {noise(y.shape(), 77)}, .create_graph = true});
  for (size_t i = 0; i < 3; ++i) expect_near(g[i], w[i], 1e-12);
  Generator c(5);
  const Tensor nothing = scaled_dot_product_attention(in[0], in[1], in[2], {.dropout = 1, .generator = &c});
  EXPECT_EQ(amax(abs(nothing.detach())).item(), 0);
}

TEST(Attention, RecordedDropoutDrawsAfreshAndBackwardAgrees) {
  const Tensor x = noise({1, 2, 24, 8}, 1, DType::f32);
  const auto step = [](Generator& g) {
    return [&g](const Tensor& x) {
      Tensor leaf = x.detach();
      leaf.requires_grad_();
      const Tensor y = scaled_dot_product_attention(leaf, leaf, leaf, {.dropout = 0.5, .generator = &g});
      return grad({y}, {leaf}, {.grad_outputs = {ones(y.shape())}})[0];
    };
  };
  Generator a(3), b(3);
  auto recorded = record(step(a));
  const auto eager = step(b);
  std::vector<float> last;
  for (int i = 0; i < 5; ++i) {
    const std::vector<float> got = recorded(x).template to_vector<float>();
    EXPECT_EQ(got, eager(x).template to_vector<float>()) << i;
    EXPECT_NE(got, last);
    last = got;
  }
  EXPECT_GT(stats().replays, 0u);
}

TEST(Attention, SameBitsOnAnyNumberOfThreads) {
  const int threads = num_threads();
  std::vector<std::vector<float>> first;
  for (int n : {1, 2, 3}) {
    set_num_threads(n);
    manual_seed(0);
    cpu().plans().clear();  // plans know the threads
    Inputs in{noise({1, 2, 500, 24}, 1, DType::f32), noise({1, 1, 700, 24}, 2, DType::f32),
              noise({1, 1, 700, 24}, 3, DType::f32)};
    for (Tensor& x : in) x.requires_grad_();
    const Tensor y = scaled_dot_product_attention(in[0], in[1], in[2], {.causal = true, .dropout = 0.2});
    std::vector<std::vector<float>> all{y.detach().to_vector<float>()};
    for (const Tensor& g : gradients(y, in)) all.push_back(g.to_vector<float>());
    if (n == 1) first = all;
    for (size_t i = 1; i < all.size(); ++i) EXPECT_EQ(all[i], first[i]) << n << " threads, gradient " << i - 1;
    EXPECT_EQ(all[0], first[0]) << n << " threads";
  }
  set_num_threads(threads);
  cpu().plans().clear();
}

TEST(Attention, DerivativesOfSecondOrder) {
  const Tensor keep = noise({4, 5}, 4) > -0.5;
  const Inputs in{noise({1, 2, 4, 3}, 1), noise({1, 1, 5, 3}, 2), noise({1, 1, 5, 2}, 3)};
  for (double dropout : {0.0, 0.4}) {
    const TensorFn fn = [&](const Inputs& in) {
      Generator g(2);
      return Inputs{square(scaled_dot_product_attention(
          in[0], in[1], in[2], {.mask = keep, .causal = true, .dropout = dropout, .generator = &g}))};
    };
    gradcheck(fn, in);
    gradgradcheck(fn, in);
  }
}

TEST(Attention, KeepsTheLayoutOfItsQueries) {
  const Tensor x = noise({2, 10, 3, 4}, 1, DType::f32).transpose(1, 2);  // [2, 3, 10, 4] in the memory of [2, 10, 3, 4]
  const Tensor y = scaled_dot_product_attention(x, x, x);
  EXPECT_TRUE(is_contiguous(y.transpose(1, 2).shape(), y.transpose(1, 2).strides()));
}

}  // namespace
}  // namespace flame
