// Sorting beyond the loops over ops: every dtype and length against std::stable_sort, threads, NaN, equal elements.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "flame/core/philox.h"
#include "flame/flame.h"
#include "tests/support/compare.h"

namespace flame {
namespace {

using namespace test;
using Numbers = std::vector<double>;
using Places = std::vector<int64_t>;

constexpr double inf = std::numeric_limits<double>::infinity();

// Numbers with many equal ones, NaN, infinities and both zeros where the dtype has them.
Tensor mixed(int64_t rows, int64_t n, DType t, uint64_t seed) {
  Numbers v(static_cast<size_t>(rows * n));
  for (size_t i = 0; i < v.size(); ++i) {
    const uint32_t r = philox(seed, i, 5)[0];
    v[i] = is_float(t) ? static_cast<double>(r % 4001) / 16 - 125
                       : static_cast<double>(r % 200) - (t == DType::u8 ? 0 : 100);
    if (is_float(t) && r % 17 == 0) v[i] = r % 2 ? NAN : -0.0;
    if (is_float(t) && r % 23 == 0) v[i] = r % 2 ? inf : -inf;
  }
  return Tensor::from(v, {rows, n}).to(t);
}
bool before(double a, double b) { return std::isnan(b) ? !std::isnan(a) : a < b; }
Places reference(const Numbers& v, size_t row, size_t n, bool descending) {
  Places p(n);
  std::iota(p.begin(), p.end(), 0);
  std::stable_sort(p.begin(), p.end(), [&](int64_t a, int64_t b) {
    const double x = v[row * n + static_cast<size_t>(a)], y = v[row * n + static_cast<size_t>(b)];
    return descending ? before(y, x) : before(x, y);
  });
  return p;
}

TEST(Sort, IsStableInEveryDType) {
  for (DType t : all_dtypes)
    for (int64_t n : {1, 2, 17, 255, 256, 1000, 9001})
      for (bool descending : {false, true}) {
        const int64_t rows = n > 1000 ? 2 : 5;
        const Tensor x = mixed(rows, n, t, static_cast<uint64_t>(n));
        const auto [values, indices] = sort(x, {.descending = descending});
        const Numbers in = numbers(x), out = numbers(values);
        const Places got = indices.to_vector<int64_t>();
        const size_t m = static_cast<size_t>(n);
        for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
          const Places want = reference(in, r, m, descending);
          ASSERT_TRUE(std::equal(want.begin(), want.end(), got.begin() + static_cast<std::ptrdiff_t>(r * m)))
              << name_of(t) << " " << n << (descending ? " falling" : " rising");
          for (size_t i = 0; i < m; ++i) {
            const double w = in[r * m + static_cast<size_t>(want[i])];
            ASSERT_TRUE(out[r * m + i] == w || (std::isnan(w) && std::isnan(out[r * m + i])));
            ASSERT_EQ(std::signbit(out[r * m + i]), std::signbit(w));
          }
        }
        EXPECT_TRUE(same_bits(argsort(x, {.descending = descending}), indices));
      }
}

TEST(Sort, FirstOfASortAreTopk) {
  for (DType t : all_dtypes)
    for (int64_t n : {3, 300, 5000})
      for (int64_t k : {int64_t{0}, int64_t{1}, int64_t{3}, n / 2, n})
        for (bool largest : {false, true}) {
          const Tensor x = mixed(3, n, t, static_cast<uint64_t>(n + k));
          const auto all = sort(x, {.descending = largest});
          const auto [values, indices] = topk(x, k, {.largest = largest});
          const std::string what = std::string(name_of(t)) + " " + std::to_string(k) + " of " + std::to_string(n);
          EXPECT_EQ(difference(indices, all.indices.narrow(1, 0, k)), "") << what;
          EXPECT_EQ(difference(values, all.values.narrow(1, 0, k)), "") << what;
          // In no particular order: the same elements.
          const Tensor any_order = topk(x, k, {.largest = largest, .sorted = false}).indices;
          EXPECT_EQ(difference(sort(any_order).values, sort(indices).values), "") << what;
          if (k == 0) continue;
          const auto kth = kthvalue(x, k, -1, true);
          const auto rising = sort(x);
          EXPECT_EQ(difference(kth.indices, rising.indices.narrow(1, k - 1, 1)), "") << what;
        }
}

TEST(Sort, MiddleElements) {
  const Tensor x = Tensor::from(Numbers{5, 1, 4, 2, 7, NAN, 3, 9}, {2, 4});
  const auto [values, indices] = median(x, 1);
  EXPECT_EQ(numbers(values)[0], 2);
  EXPECT_TRUE(std::isnan(numbers(values)[1]));
  EXPECT_EQ(numbers(indices), (Numbers{3, 1}));
  EXPECT_EQ(median(Tensor::from(Numbers{3, 1, 2}, {3})).item(), 2);
  EXPECT_TRUE(std::isnan(median(zeros({0})).item()));
}

TEST(Sort, OtherAxesAndThreads) {
  const Tensor x = mixed(12, 70, DType::f32, 3).reshape({3, 4, 70});
  for (int64_t axis : {0, 1, 2}) {
    const auto plain = sort(x, {.axis = axis});
    const auto moved = sort(movedim(x, axis, -1).contiguous());
    EXPECT_EQ(difference(plain.values, movedim(moved.values, -1, axis)), "");
    EXPECT_EQ(difference(plain.indices, movedim(moved.indices, -1, axis)), "");
    const int before = num_threads();
    for (int threads : {1, 3, 8}) {
      set_num_threads(threads);
      EXPECT_EQ(difference(sort(x, {.axis = axis}).indices, plain.indices), "") << threads;
    }
    set_num_threads(before);
  }
}

TEST(Sort, GradientsGoBackToTheirPlaces) {
  Tensor x = Tensor::from(Numbers{3, 1, 2, 2}, {4}).requires_grad_();
  const Tensor w = Tensor::from(Numbers{1, 10, 100, 1000}, {4});
  EXPECT_EQ(numbers(grad({sum(sort(x).values * w)}, {x})[0]), (Numbers{1000, 1, 10, 100}));
  EXPECT_EQ(numbers(grad({sum(topk(x, 2).values * w.narrow(0, 0, 2))}, {x})[0]), (Numbers{1, 0, 10, 0}));
  EXPECT_EQ(numbers(grad({kthvalue(x, 2).values}, {x})[0]), (Numbers{0, 0, 1, 0}));
  EXPECT_EQ(numbers(grad({median(x)}, {x})[0]), (Numbers{0, 0, 0.5, 0.5}));
  EXPECT_EQ(numbers(grad({max(x, 0).values}, {x})[0]), (Numbers{1, 0, 0, 0}));
  EXPECT_EQ(numbers(grad({max(x)}, {x})[0]), (Numbers{1, 0, 0, 0}));
}

TEST(Sort, PlacesInSortedRows) {
  const Tensor row = Tensor::from(Numbers{1, 2, 2, 4}, {4});
  const Tensor v = Tensor::from(Numbers{0, 1, 2, 3, 4, 5, NAN, inf, -inf}, {9});
  EXPECT_EQ(numbers(searchsorted(row, v)), (Numbers{0, 0, 1, 3, 3, 4, 4, 4, 0}));
  EXPECT_EQ(numbers(bucketize(v, row, {.right = true})), (Numbers{0, 1, 3, 3, 4, 4, 4, 4, 0}));
  for (DType t : all_dtypes)
    EXPECT_EQ(numbers(searchsorted(Tensor::from(Numbers{0, 1}, {2}).to(t), Tensor::from(Numbers{1, 0}, {2}).to(t))),
              (Numbers{1, 0}))
        << name_of(t);
}

}  // namespace
}  // namespace flame
