// Reductions against plain loops over every set of axes of a rank-4 tensor, dense and strided; gradients, dtypes,
// empty and special rows, errors.
#include "flame/ops/reduce.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "flame/autograd/autograd.h"
#include "flame/fuse/island.h"
#include "flame/ops/create.h"
#include "flame/ops/pointwise.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

const double inf = std::numeric_limits<double>::infinity();
using Numbers = std::vector<double>;
Numbers read(const Tensor& t) { return t.detach().to(DType::f64).to_vector<double>(); }
Tensor f64(const Numbers& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); }
Tensor sample(const Shape& shape) {
  Numbers v(static_cast<size_t>(numel(shape)));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>((i * 7919 + 13) % 1009) / 500 - 1;
  return Tensor::from(v, shape);
}
void expect_close(const Numbers& got, const Numbers& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_TRUE(got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i])) ||
                std::abs(got[i] - want[i]) <= tolerance)
        << what << ", " << i << ": got " << got[i] << ", want " << want[i];
}

// The elements that go into each result, in row-major order of both.
std::vector<Numbers> groups(const Tensor& x, uint32_t mask) {
  Shape kept = x.shape();
  for (int i = 0; i < kept.rank(); ++i)
    if (mask >> i & 1) kept[i] = 1;
  std::vector<Numbers> out(static_cast<size_t>(numel(kept)));
  const Numbers v = read(x);
  test::each_index(x.shape(), [&](const Dims& index) {
    Dims at = index;
    for (int i = 0; i < at.rank(); ++i)
      if (mask >> i & 1) at[i] = 0;
    out[static_cast<size_t>(test::row_major(kept, at))].push_back(
        v[static_cast<size_t>(test::row_major(x.shape(), index))]);
  });
  return out;
}
double mean_of(const Numbers& v) {
  double s = 0;
  for (double x : v) s += x;
  return s / static_cast<double>(v.size());
}
double squares_about_mean(const Numbers& v) {
  const double m = mean_of(v);
  double s = 0;
  for (double x : v) s += (x - m) * (x - m);
  return s;
}

struct Reduction {
  std::function<Tensor(const Tensor&, const Axes&, bool)> fn;
  std::function<double(const Numbers&)> reference;
};
const std::map<std::string, Reduction>& reductions() {
  static const std::map<std::string, Reduction> table = {
      {"sum",
       {[](const Tensor& x, const Axes& a, bool k) { return sum(x, a, k); },
        [](const Numbers& v) { return mean_of(v) * static_cast<double>(v.size()); }}},
      {"mean", {[](const Tensor& x, const Axes& a, bool k) { return mean(x, a, k); }, mean_of}},
      {"prod",
       {[](const Tensor& x, const Axes& a, bool k) { return prod(x, a, k); },
        [](const Numbers& v) {
          double p = 1;
          for (double x : v) p *= x;
          return p;
        }}},
      {"amax",
       {[](const Tensor& x, const Axes& a, bool k) { return amax(x, a, k); },
        [](const Numbers& v) { return *std::max_element(v.begin(), v.end()); }}},
      {"amin",
       {[](const Tensor& x, const Axes& a, bool k) { return amin(x, a, k); },
        [](const Numbers& v) { return *std::min_element(v.begin(), v.end()); }}},
      {"var",
       {[](const Tensor& x, const Axes& a, bool k) { return var(x, a, {.keepdim = k}); },
        [](const Numbers& v) { return squares_about_mean(v) / static_cast<double>(v.size() - 1); }}},
      {"std",
       {[](const Tensor& x, const Axes& a, bool k) { return std(x, a, {.correction = 0, .keepdim = k}); },
        [](const Numbers& v) { return std::sqrt(squares_about_mean(v) / static_cast<double>(v.size())); }}},
      {"norm",
       {[](const Tensor& x, const Axes& a, bool k) { return norm(x, a, k); },
        [](const Numbers& v) {
          double s = 0;
          for (double x : v) s += x * x;
          return std::sqrt(s);
        }}},
      {"logsumexp",
       {[](const Tensor& x, const Axes& a, bool k) { return logsumexp(x, a, k); },
        [](const Numbers& v) {
          double s = 0;
          for (double x : v) s += std::exp(x);
          return std::log(s);
        }}},
      {"any",
       {[](const Tensor& x, const Axes& a, bool k) { return any(x > 0.9, a, k); },
        [](const Numbers& v) { return std::any_of(v.begin(), v.end(), [](double x) { return x > 0.9; }); }}},
      {"all",
       {[](const Tensor& x, const Axes& a, bool k) { return all(x > -0.9, a, k); },
        [](const Numbers& v) { return std::all_of(v.begin(), v.end(), [](double x) { return x > -0.9; }); }}},
      {"argmax",
       {[](const Tensor& x, const Axes& a, bool k) { return argmax(x, a, k); },
        [](const Numbers& v) { return static_cast<double>(std::max_element(v.begin(), v.end()) - v.begin()); }}},
      {"argmin",
       {[](const Tensor& x, const Axes& a, bool k) { return argmin(x, a, k); },
        [](const Numbers& v) { return static_cast<double>(std::min_element(v.begin(), v.end()) - v.begin()); }}},
  };
  return table;
}

// Every set of axes, in falling order and partly negative, for a dense, a permuted, a sliced and an expanded tensor.
TEST(Reduce, AllSetsOfAxesAgreeWithALoop) {
  const Tensor dense = sample({3, 4, 2, 5});
  const Tensor layouts[] = {dense, sample({5, 3, 2, 4}).permute({1, 3, 2, 0}),
                            sample({3, 9, 2, 11}).slice(1, 1, 9, 2).slice(3, 1, 11, 2),
                            sample({3, 1, 2, 5}).expand({3, 4, 2, 5}), sample({40, 2, 3, 17})};
  for (const auto& [name, r] : reductions())
    for (const Tensor& x : layouts)
      for (uint32_t mask = 1; mask < 16; ++mask) {
        Dims axes;
        Shape kept = x.shape(), dropped;
        for (int i = 3; i >= 0; --i)
          if (mask >> i & 1) axes.push_back(i % 2 ? i - 4 : i);
        for (int i = 0; i < 4; ++i) {
          if (mask >> i & 1) kept[i] = 1;
          else dropped.push_back(x.shape()[i]);
        }
        if (name == "var" && groups(x, mask)[0].size() < 2) continue;
        Numbers want;
        for (const Numbers& g : groups(x, mask)) want.push_back(r.reference(g));
        const std::string what = name + " of " + to_string(x.shape()) + " over " + to_string(axes);
        const Tensor with = r.fn(x, axes, true), without = r.fn(x, axes, false);
        EXPECT_EQ(with.shape(), kept) << what;
        EXPECT_EQ(without.shape(), dropped) << what;
        expect_close(read(with), want, 1e-10, what);
        expect_close(read(without), want, 1e-10, what);
        if (mask == 15) expect_close(read(r.fn(x, {}, false)), want, 1e-10, what + " (none named)");
      }
}

TEST(Reduce, FusedEqualsUnfused) {
  const Tensor x = sample({33, 70}).to(DType::f32);
  for (const auto& [name, r] : reductions())
    for (const Axes& axes : {Axes(), Axes(0), Axes(1)}) {
      const auto run = [&] { return read(r.fn(exp(x * 0.5), axes, true) * 2); };
      const Numbers fused = run();
      set_fusion(false);
      const Numbers alone = run();
      set_fusion(true);
      EXPECT_EQ(fused, alone) << name;
    }
}

// Down columns: chunks of 32 rows, parts of 8 chunks, groups of 32 parts, each in order.
TEST(Reduce, ColumnsAreAddedInOrder) {
  constexpr int64_t columns = 9;
  for (const int64_t rows : {0, 1, 31, 32, 33, 255, 256, 257, 8193, 16'500}) {
    Generator g(11);
    const Tensor x = randn({rows, columns}, {.generator = &g});
    const std::vector<float> v = x.to_vector<float>();
    const std::function<float(int64_t, int64_t, int64_t, size_t)> in_order = [&](int64_t from, int64_t to, int64_t at,
                                                                                 size_t level) {
      constexpr int64_t steps[] = {8192, 256, 32, 1};
      float s = 0;
      for (int64_t i = from; i < to; i += steps[level])
        s += level == 3 ? v[static_cast<size_t>(i * columns + at)]
                        : in_order(i, std::min(i + steps[level], to), at, level + 1);
      return s;
    };
    const std::vector<float> got = sum(x, 0).to_vector<float>();
    for (int64_t c = 0; c < columns; ++c) EXPECT_EQ(got[static_cast<size_t>(c)], in_order(0, rows, c, 0)) << rows;
  }
}

TEST(Reduce, DTypes) {
  const Tensor flags = sample({300}) > -0.9;
  EXPECT_EQ(sum(flags).dtype(), DType::i64);
  EXPECT_EQ(sum(flags).item(), sum(flags.to(DType::f64)).item());
  const Tensor bytes = full({300}, 200, DType::u8);
  EXPECT_EQ(sum(bytes).dtype(), DType::i64);
  EXPECT_EQ(sum(bytes).item(), 60000);
  EXPECT_EQ(prod(Tensor::from(std::vector<int32_t>{100000, 100000}, {2})).item(), 1e10);
  EXPECT_EQ(amax(bytes).dtype(), DType::u8);
  EXPECT_EQ(any(bytes).dtype(), DType::boolean);
  EXPECT_EQ(argmax(bytes).dtype(), DType::i64);
  // Summed in float32 and rounded once: one after the other in bfloat16 would stop at 256.
  for (DType t : {DType::bf16, DType::f16}) {
    EXPECT_EQ(sum(ones({1000}, t)).dtype(), t);
    EXPECT_EQ(sum(ones({1024}, t)).item(), 1024);
    EXPECT_EQ(mean(ones({1000}, t) * 3).item(), 3);
    EXPECT_EQ(sum(ones({2000, 3}, t), 0).to(DType::f32).to_vector<float>()[1], 2000.0f);
  }
  EXPECT_MESSAGE(DTypeError, mean(bytes), "mean: expected a floating dtype, got uint8");
  EXPECT_MESSAGE(DTypeError, logsumexp(flags), "logsumexp: expected a floating dtype, got bool");
}

TEST(Reduce, NothingToReduce) {
  const Tensor e = zeros({2, 0});
  EXPECT_EQ(read(sum(e, 1)), (Numbers{0, 0}));
  EXPECT_EQ(read(prod(e, 1)), (Numbers{1, 1}));
  EXPECT_TRUE(std::isnan(read(mean(e, 1))[1]));
  EXPECT_EQ(read(any(e, 1)), (Numbers{0, 0}));
  EXPECT_EQ(read(all(e, 1)), (Numbers{1, 1}));
  EXPECT_EQ(read(logsumexp(e, 1)), (Numbers{-inf, -inf}));
  EXPECT_EQ(amax(e, 0).shape(), (Shape{0}));
  EXPECT_EQ(sum(e, 0).shape(), (Shape{0}));
  EXPECT_MESSAGE(ShapeError, amax(e, 1), "amax: expected at least one element to reduce over, got shape [2, 0]");
  EXPECT_MESSAGE(ShapeError, amin(e), "amin: expected at least one element");
  EXPECT_MESSAGE(ShapeError, argmax(e, 1), "argmax: expected at least one element");
  EXPECT_EQ(argmax(e, 0).shape(), (Shape{0}));
  EXPECT_TRUE(std::isnan(var(ones({1})).item()));
  EXPECT_EQ(var(ones({1}), {}, {.correction = 0}).item(), 0);
  EXPECT_EQ(sum(full({}, 3.0)).item(), 3);
}

TEST(Reduce, SpecialRows) {
  const Tensor x = Tensor::from(Numbers{-inf, -inf, -inf, 1000, 1001, 999, inf, 0, 1, NAN, 1, 2}, {4, 3});
  const Numbers l = read(logsumexp(x, 1));
  EXPECT_EQ(l[0], -inf);
  EXPECT_NEAR(l[1], 1001 + std::log(1 + std::exp(-1.0) + std::exp(-2.0)), 1e-9);
  EXPECT_EQ(l[2], inf);
  EXPECT_TRUE(std::isnan(l[3]));
  Tensor rows = x.narrow(0, 0, 2).contiguous().requires_grad_();
  const Numbers g = read(grad({sum(logsumexp(rows, 1))}, {rows})[0]);
  EXPECT_EQ((Numbers{g[0], g[1], g[2]}), (Numbers{0, 0, 0}));
  EXPECT_NEAR(g[3] + g[4] + g[5], 1, 1e-12);
  EXPECT_TRUE(std::isnan(read(amax(x, 1))[3]));
  EXPECT_TRUE(std::isnan(read(amin(x, 1))[3]));
  // The first of equal ones; a NaN before any number.
  const Tensor t = Tensor::from(Numbers{1, 3, 3, 0, NAN, 9, NAN, 2}, {2, 4});
  EXPECT_EQ(read(argmax(t, 1)), (Numbers{1, 0}));
  EXPECT_EQ(read(argmin(t, 1)), (Numbers{3, 0}));
  EXPECT_EQ(read(argmax(t, 0)), (Numbers{1, 1, 1, 1}));
  EXPECT_EQ(argmax(t).item(), 4);
  EXPECT_EQ(read(argmax(t.to(DType::f16), 1, true)), (Numbers{1, 0}));
}

Numbers gradient(const std::function<Tensor(const Tensor&)>& fn, const Tensor& at) {
  Tensor x = at.detach().requires_grad_();
  return read(grad({sum(fn(x))}, {x})[0]);
}
TEST(Reduce, GradientsAtCorners) {
  EXPECT_EQ(gradient([](const Tensor& x) { return amax(x); }, f64({1, 3, 3, 2})), (Numbers{0, 0.5, 0.5, 0}));
  EXPECT_EQ(gradient([](const Tensor& x) { return amin(x, 1); }, Tensor::from(Numbers{1, 1, 2, 2, 2, 2}, {2, 3})),
            (Numbers{0.5, 0.5, 0, 1.0 / 3, 1.0 / 3, 1.0 / 3}));
  EXPECT_EQ(gradient([](const Tensor& x) { return prod(x); }, f64({2, 3, 5})), (Numbers{15, 10, 6}));
  EXPECT_EQ(gradient([](const Tensor& x) { return prod(x); }, f64({2, 0, 3})), (Numbers{0, 6, 0}));
  EXPECT_EQ(gradient([](const Tensor& x) { return prod(x); }, f64({2, 0, 0})), (Numbers{0, 0, 0}));
  EXPECT_EQ(gradient([](const Tensor& x) { return prod(x, 0); }, Tensor::from(Numbers{1, 2, 3, 4, 5, 6}, {3, 2})),
            (Numbers{15, 24, 5, 12, 3, 8}));
  EXPECT_EQ(gradient([](const Tensor& x) { return std(x); }, f64({2, 2, 2})), (Numbers{0, 0, 0}));
  EXPECT_EQ(gradient([](const Tensor& x) { return norm(x); }, f64({0, 0})), (Numbers{0, 0}));
  expect_close(gradient([](const Tensor& x) { return norm(x); }, f64({3, 4})), {0.6, 0.8}, 1e-15, "norm");
  EXPECT_EQ(gradient([](const Tensor& x) { return mean(x, {0, 1}); }, ones({2, 2}, DType::f64)), Numbers(4, 0.25));
}
TEST(Reduce, ProductsDifferentiateTwiceThroughZeros) {
  // d2 (x y z) / dx dy = z, also where x or y is 0.
  Tensor x = f64({0, 3, 0}).requires_grad_();
  const Tensor first = grad({prod(x)}, {x}, {.create_graph = true})[0];
  EXPECT_EQ(read(grad({first.narrow(0, 0, 1).reshape({})}, {x})[0]), (Numbers{0, 0, 3}));
  gradgradcheck(
      [](const std::vector<Tensor>& in) {
        return std::vector<Tensor>{prod(in[0], {0, 2})};
      },
      {sample({3, 2, 3})});
}

TEST(Reduce, ANumberHasAxes0AndMinus1) {
  const Tensor x = Tensor::from(Numbers{-3}, {});
  using Call = std::function<Tensor(const Tensor&, const Axes&, bool)>;
  const std::pair<const char*, Call> calls[] = {
      {"sum", [](const Tensor& x, const Axes& a, bool k) { return sum(x, a, k); }},
      {"prod", [](const Tensor& x, const Axes& a, bool k) { return prod(x, a, k); }},
      {"mean", [](const Tensor& x, const Axes& a, bool k) { return mean(x, a, k); }},
      {"amax", [](const Tensor& x, const Axes& a, bool k) { return amax(x, a, k); }},
      {"norm", [](const Tensor& x, const Axes& a, bool k) { return norm(x, a, k); }},
      {"logsumexp", [](const Tensor& x, const Axes& a, bool k) { return logsumexp(x, a, k); }},
      {"var", [](const Tensor& x, const Axes& a, bool k) { return var(x, a, {.correction = 0, .keepdim = k}); }},
      {"argmin", [](const Tensor& x, const Axes& a, bool k) { return argmin(x, a, k); }},
      {"any", [](const Tensor& x, const Axes& a, bool k) { return any(x, a, k); }},
      {"nansum", [](const Tensor& x, const Axes& a, bool k) { return nansum(x, a, k); }},
      {"count_nonzero", [](const Tensor& x, const Axes& a, bool) { return count_nonzero(x, a); }},
  };
  for (const auto& [name, fn] : calls)
    for (int axis : {0, -1})
      for (bool keepdim : {false, true}) {
        const Tensor y = fn(x, axis, keepdim);
        EXPECT_EQ(y.shape(), Shape{}) << name;
        EXPECT_EQ(y.item(), fn(x, {}, keepdim).item()) << name;
        EXPECT_EQ(fn(x.to(DType::f32), axis, false).item(), y.item()) << name;
      }
  EXPECT_EQ(gradient([](const Tensor& x) { return sum(x * x, -1); }, x), (Numbers{-6}));
  EXPECT_EQ(normalize(x, {.axis = 0}).item(), -1);
  EXPECT_NEAR(cosine_similarity(x, x * -2, 0).item(), -1, 1e-15);
  EXPECT_MESSAGE(IndexError, sum(x, 1), "sum: axis 1 is out of range for rank 1");
  EXPECT_MESSAGE(ValueError, sum(x, {0, -1}), "sum: axis -1 is named twice in [0, -1]");
}

TEST(Reduce, SumToUndoesBroadcasting) {
  const Tensor g = sample({2, 3, 4});
  expect_close(read(sum_to(g, {4})), read(sum(g, {0, 1})), 1e-12, "leading axes");
  expect_close(read(sum_to(g, {3, 1})), read(sum(g, {0, 2})), 1e-12, "both");
  EXPECT_EQ(sum_to(g, {3, 1}).shape(), (Shape{3, 1}));
  EXPECT_EQ(sum_to(g, {}).shape(), (Shape{}));
  EXPECT_EQ(sum_to(sample({1, 4}), {4}).shape(), (Shape{4}));
  EXPECT_MESSAGE(ShapeError, sum_to(g, {5}), "sum_to: [2, 3, 4] was not broadcast from [5]");
}

TEST(Reduce, Errors) {
  const Tensor x = ones({2, 3});
  EXPECT_MESSAGE(IndexError, sum(x, 2), "sum: axis 2 is out of range for rank 2");
  EXPECT_MESSAGE(IndexError, amax(x, -3), "amax: axis -3 is out of range for rank 2");
  EXPECT_MESSAGE(ValueError, mean(x, {0, -2}), "mean: axis -2 is named twice in [0, -2]");
  EXPECT_MESSAGE(ValueError, sum(Tensor()), "sum: expected a defined tensor");
  EXPECT_MESSAGE(ValueError, var(x, {}, {.correction = -1}), "var: expected a correction of 0 or more, got -1");
  uint32_t line = 0;
  try {
    line = __LINE__ + 1;
    sum(x, 5);
    FAIL();
  } catch (const IndexError& e) { EXPECT_EQ(e.where().line(), line); }
}

}  // namespace
}  // namespace flame
