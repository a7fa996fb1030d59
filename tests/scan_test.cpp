// Scans beyond the loops over ops: long lines, threads, wide sums, and gradients that other rules get wrong.
#include <gtest/gtest.h>

#include <cmath>

#include "flame/flame.h"
#include "tests/support/compare.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using namespace test;
using Numbers = std::vector<double>;

constexpr double inf = std::numeric_limits<double>::infinity();

struct Threads {
  explicit Threads(int n) : before(num_threads()) { set_num_threads(n); }
  ~Threads() { set_num_threads(before); }
  int before;
};
Tensor sample(const Shape& s, double low, double high, DType t = DType::f64) {
  Generator g(7);
  return uniform(s, low, high, {.dtype = t, .generator = &g});
}
Numbers gradient(const std::function<Tensor(const Tensor&)>& fn, const Tensor& at, const Tensor& seed = {}) {
  Tensor x = at.detach().requires_grad_();
  return numbers(grad({fn(x)}, {x}, {.grad_outputs = {seed.defined() ? seed : ones_like(at)}})[0]);
}

// Every axis of several layouts, one to many lines, against a loop.
TEST(Scan, AgreesWithALoop) {
  const Tensor layouts[] = {sample({3, 5, 4}, -1, 1),
                            sample({4, 5, 3}, -1, 1).permute({2, 0, 1}),
                            sample({2, 9, 300}, -1, 1),
                            sample({7, 300}, -1, 1).slice(1, 299, -301, -2),
                            sample({40, 1}, -1, 1).expand({40, 3}),
                            sample({1, 6}, -1, 1)};
  for (const Tensor& x : layouts)
    for (int axis = 0; axis < x.rank(); ++axis) {
      const Numbers in = numbers(x), got = numbers(cumsum(x, axis)), top = numbers(cummax(x, axis).values);
      int64_t step = 1;
      for (int i = axis + 1; i < x.rank(); ++i) step *= x.shape()[i];
      const int64_t n = x.shape()[axis];
      for (size_t i = 0; i < in.size(); ++i) {
        const int64_t place = static_cast<int64_t>(i) / step % n;
        double sum = 0, most = -inf;
        for (int64_t k = place; k >= 0; --k) {
          sum += in[i - static_cast<size_t>(k * step)];
          most = std::max(most, in[i - static_cast<size_t>(k * step)]);
        }
        ASSERT_NEAR(got[i], sum, 1e-12) << to_string(x.shape()) << " axis " << axis << " element " << i;
        ASSERT_EQ(top[i], most) << to_string(x.shape()) << " axis " << axis << " element " << i;
      }
    }
}

TEST(Scan, BitsDoNotDependOnThreads) {
  for (const Shape& s : {Shape{100003}, Shape{3, 40001}, Shape{40001, 3}, Shape{200, 301}}) {
    const Tensor x = sample(s, 0.99, 1.01, DType::f32);
    for (const auto& fn : {cumsum, cumprod, logcumsumexp})
      for (int64_t axis : {0, -1}) {
        const Tensor first = [&] {
          const Threads one(1);
          return fn(x, axis, Loc::current()).contiguous();
        }();
        flush_pending();
        for (int threads : {2, 3, 8}) {
          const Threads set(threads);
          EXPECT_EQ(difference(fn(x, axis, Loc::current()), first), "") << to_string(s) << " on " << threads;
        }
      }
  }
}

TEST(Scan, LongLinesLoseNothing) {
  // Summed in float32 one after the other, 2^24 + 1 would stay 2^24.
  const int64_t n = 1 << 20;
  const std::vector<float> sums = cumsum(full({n}, 33.0f), 0).to_vector<float>();
  for (int64_t i = 0; i < n; i += 4099)
    ASSERT_EQ(sums[static_cast<size_t>(i)], static_cast<float>(33.0 * static_cast<double>(i + 1)));
  const std::vector<int64_t> counts = cumsum(ones({n}, DType::boolean), 0).to_vector<int64_t>();
  EXPECT_EQ(counts.back(), n);
  EXPECT_EQ(cumsum(full({2, 3}, int64_t{1} << 62, DType::i64), 1).select(1, 2).to_vector<int64_t>()[0],
            static_cast<int64_t>(uint64_t{3} << 62));
}

TEST(Scan, ProductsDifferentiateThroughZeros) {
  const auto product = [](const Tensor& x) { return cumprod(x, 0); };
  // d/dx_k of sum over i of x_0 ... x_i.
  EXPECT_EQ(gradient(product, Tensor::from(Numbers{2, 0, 3, 4}, {4})), (Numbers{1, 32, 0, 0}));
  EXPECT_EQ(gradient(product, Tensor::from(Numbers{0, 0, 3}, {3})), (Numbers{1, 0, 0}));
  EXPECT_EQ(gradient(product, Tensor::from(Numbers{0, 5, 0}, {3})), (Numbers{6, 0, 0}));
  gradgradcheck([](const std::vector<Tensor>& in) { return std::vector<Tensor>{cumprod(in[0], 1)}; },
                {Tensor::from(Numbers{2, 0, 3, 0.5, 0, 0, 1, 4}, {2, 4})});
  // Third derivatives: the rule of the rule's rule.
  Tensor x = Tensor::from(Numbers{2, 0, 3}, {3}).requires_grad_();
  const Tensor last = cumprod(x, 0).select(0, 2);
  const Tensor d1 = grad({last}, {x}, {.create_graph = true})[0].select(0, 0);
  const Tensor d2 = grad({d1}, {x}, {.create_graph = true})[0].select(0, 1);
  EXPECT_EQ(numbers(grad({d2}, {x})[0]), (Numbers{0, 0, 1}));
}

TEST(Scan, LogarithmsOfSums) {
  const Tensor x = Tensor::from(Numbers{-inf, -800, 800, 799, -inf, 810}, {6});
  const Numbers y = numbers(logcumsumexp(x, 0));
  EXPECT_EQ(y[0], -inf);
  EXPECT_EQ(y[1], -800);
  EXPECT_EQ(y[2], 800);
  EXPECT_NEAR(y[3], 800 + std::log1p(std::exp(-1)), 1e-12);
  const Numbers g = gradient([](const Tensor& x) { return logcumsumexp(x, 0); }, x);
  EXPECT_EQ(g[0], 0);
  EXPECT_EQ(g[4], 0);
  EXPECT_EQ(g[1], 1);
  for (double v : g) EXPECT_TRUE(std::isfinite(v));
}

TEST(Scan, PlacesOfExtremes) {
  const Tensor x = Tensor::from(Numbers{1, 3, 3, NAN, 5, NAN, 2}, {7});
  EXPECT_EQ(numbers(cummax(x, 0).indices), (Numbers{0, 1, 2, 3, 3, 5, 5}));
  EXPECT_EQ(numbers(cummin(x, 0).indices), (Numbers{0, 0, 0, 3, 3, 5, 5}));
  EXPECT_EQ(gradient([](const Tensor& x) { return cummax(x, 0).values; }, Tensor::from(Numbers{1, 3, 3, 2}, {4})),
            (Numbers{1, 1, 2, 0}));
  for (DType t : all_dtypes) {
    const auto [values, indices] = cummax(Tensor::from(Numbers{0, 1, 0, 1}, {4}).to(t), 0);
    EXPECT_EQ(values.dtype(), t);
    EXPECT_EQ(indices.dtype(), DType::i64);
    EXPECT_EQ(numbers(values), (Numbers{0, 1, 1, 1})) << name_of(t);
    EXPECT_EQ(numbers(indices), (Numbers{0, 1, 1, 3})) << name_of(t);
  }
}

TEST(Scan, OneLaunchEach) {
  Tensor x = sample({64, 64}, 0.5, 1.5).requires_grad_();
  const uint64_t before = stats().launches;
  const Tensor y = cumsum(x, 0);
  EXPECT_EQ(stats().launches - before, 1u);
  grad({y}, {x}, {.grad_outputs = {x.detach()}});
  EXPECT_EQ(stats().launches - before, 2u);
}

TEST(Reduce, OrdersOfTheNormAreSafeAtZero) {
  const Tensor zeros3 = zeros({3}, DType::f64);
  for (double p : {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, inf, -inf, -1.0}) {
    const auto fn = [p](const Tensor& x) { return norm(x, {}, {.p = p}); };
    EXPECT_EQ(gradient(fn, zeros3, ones({}, DType::f64)), (Numbers{0, 0, 0})) << p;
    const Numbers g = gradient(fn, Tensor::from(Numbers{3, 0, -2}, {3}), ones({}, DType::f64));
    for (double v : g) EXPECT_TRUE(std::isfinite(v)) << p;
    if (p > 0.5 && p < 4) {
      // The second derivative at a zero element exists where p > 2, and must not be NaN anywhere.
      Tensor x = Tensor::from(Numbers{3, 0, -2}, {3}).requires_grad_();
      const Tensor d = grad({fn(x)}, {x}, {.create_graph = true})[0];
      for (double v : numbers(grad({sum(d)}, {x})[0])) EXPECT_TRUE(std::isfinite(v)) << p;
    }
  }
  EXPECT_EQ(norm(zeros({2, 0}), 1, {.p = 0}).shape(), (Shape{2}));
}

TEST(Reduce, CountsAndGaps) {
  const Tensor x = Tensor::from(Numbers{1, NAN, 0, 2, NAN, NAN}, {2, 3});
  EXPECT_EQ(numbers(nansum(x, 1)), (Numbers{1, 2}));
  EXPECT_EQ(numbers(nanmean(x, 1)), (Numbers{0.5, 2}));
  EXPECT_EQ(numbers(count_nonzero(x, 1)), (Numbers{2, 3}));
  EXPECT_EQ(count_nonzero(x).dtype(), DType::i64);
  EXPECT_EQ(gradient([](const Tensor& x) { return nanmean(x, 1); }, x, ones({2}, DType::f64)),
            (Numbers{0.5, 0, 0.5, 1, 0, 0}));
  for (DType t : all_dtypes) {
    EXPECT_EQ(count_nonzero(ones({300}, t)).item<int64_t>(), 300) << name_of(t);
    EXPECT_EQ(max(ones({300}, t), 0).indices.item<int64_t>(), 0) << name_of(t);
    EXPECT_EQ(nansum(ones({300}, t)).item(), 300) << name_of(t);
  }
}

}  // namespace
}  // namespace flame
