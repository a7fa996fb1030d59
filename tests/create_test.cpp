// Tensors made from numbers: values, dtypes, counts, errors.
#include <cmath>

#include "flame/flame.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

TEST(Create, ConstantsOfEveryDtypeAndRank) {
  for (DType t : all_dtypes) {
    EXPECT_EQ(ones({2, 3}, t).to(DType::f64).to_vector<double>(), std::vector<double>(6, 1.0)) << name_of(t);
    EXPECT_EQ(zeros({}, t).item(), 0) << name_of(t);
    EXPECT_EQ(full({0, 2}, 3, t).numel(), 0);
    EXPECT_EQ(full({1, 2}, 1.0, t).dtype(), t);
  }
  EXPECT_EQ(full({2}, int64_t{1} << 53 | 1, DType::i64).to_vector<int64_t>()[1], (int64_t{1} << 53) + 1);
  EXPECT_EQ(full({}, 0.1, DType::f64).item(), 0.1);
  EXPECT_EQ(full({2}, 2, DType::boolean).to_vector<bool>()[0], true);
  EXPECT_TRUE(std::isnan(full({}, NAN).item()));
  EXPECT_TRUE(std::signbit(full({}, -0.0).item()));
  EXPECT_EQ(full({}, INFINITY).item(), INFINITY);
  EXPECT_MESSAGE(ShapeError, full({2, -1}, 0), "expected sizes of 0 or more, got [2, -1]");
}

TEST(Create, LikeFollowsShapeAndDtype) {
  Tensor x = test::counting<double>({2, 3}).t();
  x.requires_grad_();
  EXPECT_EQ(ones_like(x).shape(), (Shape{3, 2}));
  EXPECT_EQ(ones_like(x).dtype(), DType::f64);
  EXPECT_FALSE(zeros_like(x).requires_grad());
  EXPECT_EQ(full_like(x, 7).to_vector<double>(), std::vector<double>(6, 7.0));
  EXPECT_EQ(empty_like(x).shape(), x.shape());
}

TEST(Create, ArangeCountsLikeNumpy) {
  EXPECT_EQ(arange(5).to_vector<int64_t>(), (std::vector<int64_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(arange(2, 9, 3).to_vector<int64_t>(), (std::vector<int64_t>{2, 5, 8}));
  EXPECT_EQ(arange(9, 2, -3).to_vector<int64_t>(), (std::vector<int64_t>{9, 6, 3}));
  EXPECT_EQ(arange(3, 3).numel(), 0);
  EXPECT_EQ(arange(0, 1, 0.25).to_vector<float>(), (std::vector<float>{0, 0.25f, 0.5f, 0.75f}));
  EXPECT_EQ(arange(0.0, 5).dtype(), DType::f32);
  const std::vector<float> v = arange(0.0, 100.0, 0.1).to_vector<float>();
  ASSERT_EQ(v.size(), 1000u);
  for (size_t i = 0; i < v.size(); ++i) EXPECT_EQ(v[i], static_cast<float>(0.1 * static_cast<double>(i)));
  EXPECT_EQ(arange(0, 4, 1, DType::u8).dtype(), DType::u8);
  EXPECT_MESSAGE(ValueError, arange(0, 4, -1), "arange: no walk from 0 to 4 by steps of -1");
  EXPECT_MESSAGE(ValueError, arange(0, 4, 0), "by steps of 0");
}

TEST(Create, LinspaceEndsExactly) {
  for (int64_t n : {1, 2, 3, 10, 101}) {
    const std::vector<double> v = linspace(-0.3, 1.7, n, DType::f64).to_vector<double>();
    ASSERT_EQ(v.size(), static_cast<size_t>(n));
    EXPECT_EQ(v.front(), -0.3);
    if (n > 1) { EXPECT_EQ(v.back(), 1.7); }
    for (size_t i = 0; i < v.size(); ++i)
      EXPECT_NEAR(v[i], -0.3 + 2.0 * static_cast<double>(i) / std::max<double>(1, static_cast<double>(n - 1)), 1e-15);
  }
  EXPECT_EQ(linspace(0, 1, 0).numel(), 0);
  EXPECT_MESSAGE(DTypeError, linspace(0, 1, 3, DType::i64), "linspace: expected a floating dtype, got int64");
}

TEST(Create, EyeAndOneHot) {
  EXPECT_EQ(eye(2, 3).to_vector<float>(), (std::vector<float>{1, 0, 0, 0, 1, 0}));
  EXPECT_EQ(eye(3, DType::i64).to_vector<int64_t>(), (std::vector<int64_t>{1, 0, 0, 0, 1, 0, 0, 0, 1}));
  const Tensor i = Tensor::from(std::vector<int64_t>{2, 0, 1, 2}, {2, 2});
  EXPECT_EQ(one_hot(i, 4).shape(), (Shape{2, 2, 4}));
  EXPECT_EQ(one_hot(i).to_vector<int64_t>(), (std::vector<int64_t>{0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1}));
  EXPECT_MESSAGE(IndexError, one_hot(i, 2), "one_hot: index 2 is out of range for axis 2 of size 2");
  EXPECT_MESSAGE(IndexError, one_hot(i - 1, 2), "one_hot: index -1 is out of range");
  EXPECT_MESSAGE(DTypeError, one_hot(ones({2}), 3), "one_hot: expected integers, got float32");
}

TEST(Create, ConstantsJoinTheIslandThatReadsThem) {
  const Tensor x = test::counting({64});
  x.data();
  const Stats before = stats();
  const Tensor y = (x + ones({64})) * full({64}, 2.0);
  EXPECT_EQ(y.to_vector<float>()[3], 8);
  EXPECT_EQ(stats().launches - before.launches, 1u);
}

}  // namespace
}  // namespace flame
