// Rearranging and creation: what is a view, what one launch, every dtype, and the shape of a truncated normal.
#include <algorithm>
#include <cmath>

#include "flame/flame.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using test::counting;
using test::each_index;
using test::row_major;

bool shares(const Tensor& a, const Tensor& b) {
  a.data();
  b.data();
  return a.value().storage == b.value().storage;
}
template <class F>
uint64_t launches(F&& fn) {
  flush_pending();
  const uint64_t before = stats().launches;
  fn().data();
  return stats().launches - before;
}

// The gradients of the parts are joined by one copy, however many they are; parts that got none are zeros.
TEST(Shaping, GradientsOfPartsAreOneCopy) {
  Tensor x = counting({4, 6});
  x.requires_grad_();
  const Tensor g = counting({4, 2});
  const std::vector<Tensor> parts = chunk(x, 3, 1);
  EXPECT_EQ(launches([&] { return grad(parts, {x}, {.grad_outputs = {g, g, g}, .retain_graph = true})[0]; }), 1);
  const Tensor of_one = grad({parts[1]}, {x}, {.grad_outputs = {g}})[0];
  EXPECT_EQ(of_one.to_vector<float>(), cat({zeros({4, 2}), g, zeros({4, 2})}, 1).to_vector<float>());
}

TEST(Shaping, PartsAndDiagonalsAreViews) {
  const Tensor x = counting({4, 6});
  for (const Tensor& y : split(x, 2, 1)) EXPECT_TRUE(shares(x, y));
  for (const Tensor& y : chunk(x, 3)) EXPECT_TRUE(shares(x, y));
  EXPECT_TRUE(shares(x, diagonal(x, {.offset = 1})));
  EXPECT_TRUE(shares(x, unflatten(x, 1, {2, 3})));
  EXPECT_EQ(chunk(zeros({2, 0}), 4, 1).size(), 4u);
  EXPECT_EQ(split(x, {1, 3}, 0)[1].to_vector<float>()[0], 6);
  EXPECT_EQ(diagonal(x, {.offset = -2}).to_vector<float>(), (std::vector<float>{12, 19}));
  EXPECT_EQ(x.unsqueeze(0).unsqueeze(-1).squeeze().shape(), x.shape());
  EXPECT_EQ(x.unsqueeze(0).unsqueeze(-1).squeeze({0, 1}).shape(), (Shape{4, 6, 1}));
}

TEST(Shaping, AnEmptyVectorThatCatSkipsGetsAGradient) {
  Tensor x = counting({2, 3}).requires_grad_(), nothing = zeros({0}, DType::f64).requires_grad_();
  const Tensor y = cat({nothing, x, nothing}, 1);
  EXPECT_EQ(y.shape(), (Shape{2, 3}));
  EXPECT_EQ(y.dtype(), DType::f64);
  const std::vector<Tensor> g = grad({sum(y * y)}, {x, nothing}, {.create_graph = true});
  EXPECT_EQ(g[0].detach().to_vector<float>(), (std::vector<float>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(g[1].shape(), (Shape{0}));
  EXPECT_EQ(g[1].dtype(), DType::f64);
  EXPECT_EQ(grad({sum(g[0])}, {x})[0].to_vector<float>(), std::vector<float>(6, 2));
  EXPECT_EQ(grad({sum(cat({counting({2, 3}), nothing}, 0))}, {nothing})[0].shape(), (Shape{0}));
}

TEST(Shaping, LaunchesAreAsFewAsPromised) {
  const Tensor x = counting({3, 8, 8});
  x.data();
  EXPECT_EQ(launches([&] { return roll(x, {1, -3}, {1, 2}); }), 1u);
  EXPECT_EQ(launches([&] { return pad(x, {1, 2, 3, 4}); }), 1u);
  EXPECT_EQ(launches([&] { return repeat(x, {2, 2, 2}); }), 1u);
  EXPECT_EQ(launches([&] { return tril(x * 2, 1) + 1; }), 1u) << "the mask is not in the island of its neighbours";
}

TEST(Shaping, EveryDtypeKeepsItsValues) {
  const Tensor x = counting({3, 4, 5}) - 20;
  const std::pair<const char*, std::function<Tensor(const Tensor&)>> calls[] = {
      {"roll",
       [](const Tensor& t) {
         return roll(t, {2, -1}, {0, 2});
       }},
      {"repeat",
       [](const Tensor& t) {
         return repeat(t, {2, 1, 1, 3});
       }},
      {"tile", [](const Tensor& t) { return tile(t, {2}); }},
      {"constant",
       [](const Tensor& t) {
         return pad(t, {1, -1, 2, 0}, {.value = 1});
       }},
      {"reflect",
       [](const Tensor& t) {
         return pad(t, {2, 1}, {.mode = PadMode::reflect});
       }},
      {"replicate",
       [](const Tensor& t) {
         return pad(t, {2, 1}, {.mode = PadMode::replicate});
       }},
      {"circular",
       [](const Tensor& t) {
         return pad(t, {2, 1}, {.mode = PadMode::circular});
       }},
      {"tril", [](const Tensor& t) { return tril(t); }},
      {"triu", [](const Tensor& t) { return triu(t, -1); }},
      {"diagonal_scatter",
       [](const Tensor& t) {
         return diagonal_scatter(diagonal(t), {3, 4, 5});
       }},
      {"movedim",
       [](const Tensor& t) {
         return movedim(t, {0, 1}, {2, 0});
       }},
  };
  for (const auto& [name, fn] : calls)
    for (DType t : all_dtypes) {
      const Tensor y = fn(x.to(t));
      EXPECT_EQ(y.dtype(), t) << name;
      EXPECT_EQ(y.to(DType::f64).to_vector<double>(), fn(x.to(t).to(DType::f64)).to_vector<double>())
          << name << " of " << name_of(t);
    }
  EXPECT_EQ(
      pad(full({1}, int64_t{1} << 53 | 1, DType::i64), {1, 0}, {.value = (int64_t{1} << 60) + 1}).to_vector<int64_t>(),
      (std::vector<int64_t>{(int64_t{1} << 60) + 1, (int64_t{1} << 53) + 1}));
}

TEST(Shaping, RepeatBeyondTheRankLimitOfItsViews) {
  const Tensor x = counting({2, 3, 2, 2, 3});
  const Dims counts{2, 3, 2, 2, 2};
  const Tensor y = repeat(x, counts);
  const std::vector<float> v = y.to_vector<float>(), from = x.to_vector<float>();
  each_index(y.shape(), [&](const Dims& i) {
    Dims j = i;
    for (int a = 0; a < j.rank(); ++a) j[a] %= x.shape()[a];
    EXPECT_EQ(v[static_cast<size_t>(row_major(y.shape(), i))], from[static_cast<size_t>(row_major(x.shape(), j))]);
  });
}

TEST(Shaping, LikesFollowDtypeShapeAndDevice) {
  Tensor x = counting<double>({2, 3});
  x.requires_grad_();
  Generator a(3), b(3);
  EXPECT_EQ(rand_like(x, {.generator = &a}).to_vector<double>(),
            rand({2, 3}, {.dtype = DType::f64, .generator = &b}).to_vector<double>());
  EXPECT_EQ(randn_like(x, {.dtype = DType::f16}).dtype(), DType::f16);
  EXPECT_EQ(randint_like(x, 0, 5).dtype(), DType::f64);
  EXPECT_EQ(randint_like(counting<uint8_t>({4}), 0, 5).dtype(), DType::u8);
  EXPECT_FALSE(rand_like(x).requires_grad());
  EXPECT_EQ(empty_like(x).shape(), x.shape());
  const Tensor p = Tensor::from(std::vector<double>{0, 1, 0, 1}, {4});
  EXPECT_EQ(bernoulli(p).to_vector<double>(), p.to_vector<double>());
}

double cdf(double z) { return 0.5 * std::erfc(-z / std::sqrt(2.0)); }

// Kolmogorov's test at about one in ten thousand.
TEST(Shaping, TruncatedNormalIsANormalBetweenItsBounds) {
  const TruncatedNormalOptions cases[] = {{}, {1, 0.5, 0, 4}, {0, 1, 3, 3.5}, {0, 1, -9, -4}, {2, 3, -HUGE_VAL, 2}};
  Generator g(5);
  for (const TruncatedNormalOptions& o : cases) {
    std::vector<double> v = truncated_normal({20000}, o, {.dtype = DType::f64, .generator = &g}).to_vector<double>();
    std::sort(v.begin(), v.end());
    EXPECT_GE(v.front(), o.a);
    EXPECT_LE(v.back(), o.b);
    const double low = cdf((o.a - o.mean) / o.std), high = cdf((o.b - o.mean) / o.std);
    double worst = 0;
    for (size_t i = 0; i < v.size(); ++i)
      worst = std::max(worst, std::abs((cdf((v[i] - o.mean) / o.std) - low) / (high - low) -
                                       (static_cast<double>(i) + 0.5) / static_cast<double>(v.size())));
    EXPECT_LT(worst * std::sqrt(static_cast<double>(v.size())), 2.2) << o.mean << " " << o.std << " " << o.a;
    EXPECT_GT(worst, 0);
  }
}

TEST(Shaping, TruncatedNormalIsTheSameNumberInEveryDtypeOnEveryThreadCount) {
  const auto draw = [](DType t) {
    Generator g(9);
    return truncated_normal({30001}, {.mean = 0.3, .std = 2}, {.dtype = t, .generator = &g});
  };
  const Tensor f64 = draw(DType::f64), f32 = draw(DType::f32);
  EXPECT_EQ(f64.to(DType::f32).to_vector<float>(), f32.to_vector<float>());
  for (DType t : {DType::f16, DType::bf16})
    EXPECT_EQ(f32.to(t).to(DType::f32).to_vector<float>(), draw(t).to(DType::f32).to_vector<float>());
  const int before = num_threads();
  set_num_threads(3);
  EXPECT_EQ(draw(DType::f64).to_vector<double>(), f64.to_vector<double>());
  set_num_threads(before);
  Generator g(9);
  EXPECT_NE(truncated_normal({4}, {}, {.generator = &g}).to_vector<float>(),
            truncated_normal({4}, {}, {.generator = &g}).to_vector<float>());
}

}  // namespace
}  // namespace flame
