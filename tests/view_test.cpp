// Views against index arithmetic: values, layouts, what is copied and what is not, gradients, errors.
#include <limits>

#include "flame/flame.h"
#include "flame/device/cpu/cpu_device.h"
#include "flame/device/recorder.h"
#include "tests/support/compare.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

using test::counting;
using test::each_index;
using test::row_major;
using Inputs = std::vector<Tensor>;

bool shares(const Tensor& a, const Tensor& b) {
  a.data();
  b.data();
  return a.value().storage == b.value().storage;
}

TEST(View, ReshapeKeepsRowMajorOrderAndCopiesOnlyWhenItMust) {
  const Tensor x = counting({2, 3, 4});
  struct Case {
    Tensor from;
    Shape to;
    bool view;
  };
  const Case cases[] = {
      {x, {6, 4}, true},
      {x, {2, 12}, true},
      {x, {-1}, true},
      {x, {4, 3, 2}, true},
      {x, {2, 1, 3, 2, 2}, true},
      {x.permute({1, 0, 2}), {3, 8}, false},
      {x.permute({1, 0, 2}), {3, 2, 2, 2}, true},
      {x.permute({2, 0, 1}), {4, 6}, true},
      {x.permute({2, 0, 1}), {8, 3}, false},
      {x.slice(2, 0, 4, 2), {2, 6}, true},
      {x.slice(2, 0, 4, 2), {12}, true},
      {x.slice(1, 0, 2), {2, 8}, true},
      {x.slice(1, 0, 2), {16}, false},
      {x.slice(0, -1, -3, -1), {2, 12}, true},
      {x.slice(0, -1, -3, -1), {24}, false},
      {x.narrow(0, 0, 1).expand({5, 3, 4}), {5, 12}, true},
      {x.narrow(0, 0, 1).expand({5, 3, 4}), {60}, false},
  };
  for (const Case& c : cases) {
    const Tensor y = c.from.reshape(c.to);
    EXPECT_EQ(y.to_vector<float>(), c.from.to_vector<float>())
        << to_string(c.from.shape()) << " as " << to_string(c.to);
    EXPECT_EQ(shares(y, c.from), c.view) << to_string(c.from.strides()) << " as " << to_string(c.to);
    EXPECT_EQ(y.numel(), c.from.numel());
  }
}

TEST(View, ReshapeOfNothingAndOfOneNumber) {
  EXPECT_EQ(zeros({0, 3}).reshape({3, 0}).shape(), (Shape{3, 0}));
  EXPECT_EQ(zeros({0, 3}).reshape({-1, 3}).shape(), (Shape{0, 3}));
  EXPECT_EQ(counting({1}).reshape({}).shape(), Shape{});
  EXPECT_EQ(counting({}).reshape({1, 1, 1}).shape(), (Shape{1, 1, 1}));
  EXPECT_EQ(counting({}).flatten().shape(), Shape{1});
}

TEST(View, ReshapeErrors) {
  const Tensor x = counting({2, 3});
  EXPECT_MESSAGE(ShapeError, x.reshape({4, 2}), "reshape: [2, 3] has 6 elements, [4, 2] has 8");
  EXPECT_MESSAGE(ShapeError, x.reshape({4, -1}), "reshape: [2, 3] with 6 elements does not fit into [4, -1]");
  EXPECT_MESSAGE(ShapeError, x.reshape({-1, -1}), "at most one -1");
  EXPECT_MESSAGE(ShapeError, x.reshape({-2, 3}), "sizes of 0 or more");
  EXPECT_MESSAGE(ShapeError, zeros({0}).reshape({-1, 0}), "does not fit");
  EXPECT_MESSAGE(ShapeError, x.reshape({1, 1, 1, 1, 1, 1, 1, 2, 3}), "above the limit of 8");
}

TEST(View, FlattenOfChannelsLastIsRowMajor) {
  const Tensor x = counting({2, 4, 5, 3}).permute({0, 3, 1, 2});
  const Tensor y = x.flatten(1);
  EXPECT_EQ(y.shape(), (Shape{2, 60}));
  EXPECT_FALSE(shares(x, y));
  EXPECT_TRUE(is_contiguous(y.shape(), y.strides()));
  const std::vector<float> v = y.to_vector<float>();
  each_index({2, 3, 4, 5}, [&](const Dims& i) {
    EXPECT_EQ(v[static_cast<size_t>(row_major({2, 3, 4, 5}, i))],
              static_cast<float>(row_major({2, 4, 5, 3}, {i[0], i[2], i[3], i[1]})));
  });
  EXPECT_EQ(x.flatten(-2).shape(), (Shape{2, 3, 20}));
  EXPECT_MESSAGE(ShapeError, x.flatten(2, 1), "flatten: expected from <= to");
}

TEST(View, PermuteAndTransposeMoveIndices) {
  const Shape s{2, 3, 4};
  const Tensor x = counting(s);
  const Tensor y = x.permute({2, 0, -2});
  const std::vector<float> v = y.to_vector<float>();
  EXPECT_EQ(y.shape(), (Shape{4, 2, 3}));
  EXPECT_TRUE(shares(x, y));
  each_index(y.shape(), [&](const Dims& i) {
    EXPECT_EQ(v[static_cast<size_t>(row_major(y.shape(), i))], static_cast<float>(row_major(s, {i[1], i[2], i[0]})));
  });
  EXPECT_EQ(x.transpose(0, -1).shape(), (Shape{4, 3, 2}));
  EXPECT_EQ(x.t().shape(), (Shape{2, 4, 3}));
  EXPECT_EQ(movedim(x, 0, -1).shape(), (Shape{3, 4, 2}));
  EXPECT_EQ(movedim(x, -1, 0).shape(), (Shape{4, 2, 3}));
  EXPECT_MESSAGE(IndexError, x.permute({0, 0, 1}), "permute: axis 0 comes twice");
  EXPECT_MESSAGE(ShapeError, x.permute({0, 1}), "permute: expected 3 axes for shape [2, 3, 4], got [0, 1]");
  EXPECT_MESSAGE(IndexError, x.transpose(0, 3), "transpose: axis 3 is out of range for rank 3");
}

TEST(View, SliceFollowsPythonForEveryStartStopAndStep) {
  for (int64_t n : {0, 1, 5})
    for (int64_t start = -7; start <= 7; ++start)
      for (int64_t stop = -7; stop <= 7; ++stop)
        for (int64_t step : {-3, -2, -1, 1, 2, 3}) {
          std::vector<float> expected;  // Python's slice.indices, then a plain walk
          const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
          const auto place = [&](int64_t i) { return std::min(std::max(i < 0 ? i + n : i, low), high); };
          const int64_t a = place(start), b = place(stop);
          for (int64_t i = a; step > 0 ? i < b : i > b; i += step) expected.push_back(static_cast<float>(i));
          EXPECT_EQ(counting({n}).slice(0, start, stop, step).to_vector<float>(), expected)
              << n << ": " << start << " " << stop << " " << step;
        }
  const Tensor x = counting({2, 5});
  EXPECT_EQ(x.slice(1, 4, std::numeric_limits<int64_t>::min(), -1).to_vector<float>(),
            (std::vector<float>{4, 3, 2, 1, 0, 9, 8, 7, 6, 5}));
  EXPECT_EQ(x.slice(1, 3, 5, std::numeric_limits<int64_t>::max()).to_vector<float>(), (std::vector<float>{3, 8}));
  EXPECT_EQ(flip(x, {1}).to_vector<float>(), (std::vector<float>{4, 3, 2, 1, 0, 9, 8, 7, 6, 5}));
  EXPECT_EQ((flip(x, {0, 1}) + x).to_vector<float>(), std::vector<float>(10, 9.0f));
  EXPECT_MESSAGE(ValueError, x.slice(0, 0, 1, 0), "slice: expected a step other than 0");
}

TEST(View, NarrowSelectAndTheirErrors) {
  const Tensor x = counting({3, 4});
  EXPECT_EQ(x.narrow(1, -3, 2).to_vector<float>(), (std::vector<float>{1, 2, 5, 6, 9, 10}));
  EXPECT_EQ(x.narrow(0, 3, 0).shape(), (Shape{0, 4}));
  EXPECT_EQ(x.select(0, -1).to_vector<float>(), (std::vector<float>{8, 9, 10, 11}));
  EXPECT_EQ(x.select(1, 2).select(0, 1).item(), 6);
  EXPECT_MESSAGE(IndexError, x.narrow(0, 2, 2), "narrow: 2 elements from 2 leave axis 0 of size 3");
  EXPECT_MESSAGE(IndexError, x.narrow(0, 0, std::numeric_limits<int64_t>::max()), "leave axis 0");
  EXPECT_MESSAGE(IndexError, x.select(1, 4), "select: index 4 is out of range for axis 1 of size 4");
  EXPECT_MESSAGE(IndexError, x.select(2, 0), "select: axis 2 is out of range for rank 2");
}

TEST(View, ExpandRepeatsWithoutBytes) {
  const Tensor x = counting({3, 1});
  const Tensor y = x.expand({2, -1, 4});
  EXPECT_EQ(y.shape(), (Shape{2, 3, 4}));
  EXPECT_EQ(y.strides(), (Strides{0, 1, 0}));
  EXPECT_TRUE(shares(x, y));
  const std::vector<float> v = y.to_vector<float>();
  each_index(y.shape(), [&](const Dims& i) {
    EXPECT_EQ(v[static_cast<size_t>(row_major(y.shape(), i))], static_cast<float>(i[1]));
  });
  EXPECT_EQ(zeros({1, 0}).expand({3, 0}).shape(), (Shape{3, 0}));
  EXPECT_EQ(x.expand({0, 3, 1}).numel(), 0);
  EXPECT_MESSAGE(ShapeError, x.expand({4, 1}), "expand: [3, 1] does not broadcast to [4, 1]");
  EXPECT_MESSAGE(ShapeError, x.expand({3}), "expand: [3, 1] does not broadcast to [3]");
}

TEST(View, AxesOfSizeOneComeAndGoWithoutRunningAnything) {
  const Tensor x = counting({2, 3});
  x.data();
  const Tensor p = x + 1;
  const Stats before = stats();
  const Tensor q = p.unsqueeze(1).squeeze(1).reshape({2, 3, 1}).permute({2, 0, 1}).expand({1, 1, 2, 3});
  EXPECT_TRUE(p.is_pending());
  EXPECT_TRUE(q.is_pending());
  EXPECT_EQ(stats().launches, before.launches);
  EXPECT_EQ(q.to_vector<float>(), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(x.squeeze(0).shape(), x.shape());
  EXPECT_MESSAGE(IndexError, x.squeeze(2), "squeeze: axis 2 is out of range for rank 2");
  EXPECT_MESSAGE(IndexError, x.unsqueeze(4), "unsqueeze: axis 4 is out of range for rank 3");
}

TEST(View, ContiguousAndCasts) {
  const Tensor x = counting({2, 3});
  EXPECT_TRUE(shares(x, x.contiguous()));
  EXPECT_FALSE(shares(x, x.t().contiguous()));
  EXPECT_EQ(x.t().contiguous().strides(), (Strides{2, 1}));
  EXPECT_EQ(x.t().contiguous().to_vector<float>(), (std::vector<float>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(x.t().to(DType::i64).to_vector<int64_t>(), (std::vector<int64_t>{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ((x * 1.5).to(DType::i32).to_vector<int32_t>(), (std::vector<int32_t>{0, 1, 3, 4, 6, 7}));
  EXPECT_EQ(x.to(DType::boolean).to_vector<bool>(), (std::vector<bool>{false, true, true, true, true, true}));
  Tensor h = counting<double>({3});
  h.requires_grad_();
  backward((h.to(DType::bf16).to(DType::f32) * 3).sum());
  EXPECT_EQ(h.grad().dtype(), DType::f64);
  EXPECT_EQ(h.grad().to_vector<double>(), (std::vector<double>{3, 3, 3}));
  EXPECT_FALSE(h.to(DType::i64).requires_grad());
}

TEST(View, GradientsAreTheOppositeViews) {
  const std::function<Tensor(const Tensor&)> views[] = {
      [](const Tensor& x) {
        return x.reshape({4, -1});
      },
      [](const Tensor& x) {
        return x.permute({2, 0, 1}).flatten();
      },
      [](const Tensor& x) {
        return x.unsqueeze(2).expand({2, 3, 2, 4});
      },
      [](const Tensor& x) { return x.narrow(1, 1, 2); },
      [](const Tensor& x) { return x.slice(2, -1, 0, -2); },
      [](const Tensor& x) {
        return flip(x, {0, 2}).select(1, 1);
      },
      [](const Tensor& x) {
        return cat({x.narrow(0, 0, 1), x.t().contiguous().t(), x}, 0);
      },
      [](const Tensor& x) {
        return slice_scatter(x, {2, 9, 4}, 1, 7, -3);
      },
  };
  const Tensor x = randn({2, 3, 4}, {.dtype = DType::f64});
  for (const auto& view : views) {
    const TensorFn fn = [&](const Inputs& in) { return Inputs{square(view(in[0])) * 0.5 + view(in[0])}; };
    gradcheck(fn, {x});
    gradgradcheck(fn, {x});
  }
}

TEST(View, ViewsOfAStateKeepTheOldBytes) {
  const State s(counting({4}));
  const Tensor view = s.tensor().narrow(0, 1, 2);
  s.assign(zeros({4}));
  EXPECT_EQ(view.to_vector<float>(), (std::vector<float>{1, 2}));
  EXPECT_EQ(s.tensor().narrow(0, 1, 2).to_vector<float>(), (std::vector<float>{0, 0}));
}

class SecondCpu : public CpuDevice {
 public:
  SecondCpu() : CpuDevice(Kind::cpu, "second") {}
};

TEST(View, ToAnotherDeviceIsCountedAndHasAGradient) {
  static SecondCpu second;
  Tensor x = counting({2, 3}).t();
  x.requires_grad_();
  const uint64_t before = stats().host_copies;
  const Tensor y = x.to(second);
  EXPECT_EQ(stats().host_copies, before + 1);
  EXPECT_EQ(&y.device(), &second);
  EXPECT_EQ(y.to_vector<float>(), x.to_vector<float>());
  EXPECT_TRUE(shares(x, x.to(cpu())));
  backward((y * 2).sum());
  EXPECT_EQ(&x.grad().device(), &cpu());
  EXPECT_EQ(x.grad().to_vector<float>(), std::vector<float>(6, 2.0f));
  Recorder recorder;
  EXPECT_MESSAGE(RecordError, x.to(second), "to: a tensor was moved from cpu to second inside a recorded step");
}

TEST(Cat, JoinsAlongEveryAxis) {
  for (int axis = 0; axis < 3; ++axis) {
    Shape sa{2, 3, 4}, sb = sa, sc = sa, out = sa;
    sb[axis] = 5;
    sc[axis] = 0;
    out[axis] += 5;
    const Tensor a = counting(sa), b = counting(sb) + 100, c = zeros(sc);
    const Tensor y = cat({a, c, b}, axis - 3);
    ASSERT_EQ(y.shape(), out);
    const std::vector<float> v = y.to_vector<float>();
    each_index(out, [&](const Dims& i) {
      Dims j = i;
      const bool first = i[axis] < sa[axis];
      if (!first) j[axis] -= sa[axis];
      const float expected = first ? static_cast<float>(row_major(sa, j)) : 100 + static_cast<float>(row_major(sb, j));
      EXPECT_EQ(v[static_cast<size_t>(row_major(out, i))], expected);
    });
  }
}

TEST(Cat, DtypesLayoutsAndErrors) {
  EXPECT_EQ(cat({counting<int32_t>({2}), counting<float>({2})}).dtype(), DType::f32);
  EXPECT_EQ(cat({counting<bool>({2}), counting<int64_t>({1})}).to_vector<int64_t>(), (std::vector<int64_t>{0, 1, 0}));
  const Tensor last = counting({2, 4, 5, 3}).permute({0, 3, 1, 2});
  const Tensor y = cat({last, last}, 1);
  EXPECT_TRUE(is_channels_last(y.shape(), y.strides()));
  EXPECT_EQ(y.to_vector<float>(), cat({last.contiguous(), last.contiguous()}, 1).to_vector<float>());
  EXPECT_MESSAGE(ShapeError, cat({zeros({2, 3}), zeros({2, 4})}, 0),
                 "cat: shapes [2, 3] and [2, 4] differ beside axis 0");
  EXPECT_MESSAGE(ShapeError, cat({zeros({2}), zeros({2, 4})}, 0), "cat: shapes [2] and [2, 4] differ");
  EXPECT_MESSAGE(ValueError, cat({}, 0), "cat: expected at least one tensor");
  EXPECT_MESSAGE(IndexError, cat({zeros({2})}, 1), "cat: axis 1 is out of range for rank 1");
  EXPECT_MESSAGE(ShapeError, stack({zeros({2}), zeros({3})}), "stack: expected equal shapes, got [2] and [3]");
}

TEST(Cat, PartsOfOneTensorAreThatTensor) {
  const Tensor x = arange(0, 24).reshape({4, 6}), y = x.t();
  const auto launches = [](const Tensor& of, int64_t axis, int64_t count) {
    std::vector<Tensor> parts = chunk(of, count, axis);
    const Stats before = stats();
    const Tensor joined = cat(parts, axis);
    const uint64_t n = stats().launches - before.launches;
    EXPECT_TRUE(test::same_bits(joined, of.contiguous()));
    EXPECT_TRUE(is_contiguous(joined.shape(), joined.strides()));
    return n;
  };
  EXPECT_EQ(launches(x, 0, 2), 0u);
  EXPECT_EQ(launches(x, 1, 3), 0u);
  EXPECT_EQ(launches(y, 0, 2), 1u);                               // another layout than cat gives
  EXPECT_EQ(launches(arange(0, 30).narrow(0, 0, 24), 0, 3), 1u);  // would keep the rest alive
  EXPECT_EQ(launches(State(x).tensor(), 0, 2), 1u);
  const std::vector<Tensor> p = chunk(x, 2, 0);
  EXPECT_TRUE(test::same_bits(cat({p[1], p[0]}, 0), cat({x.narrow(0, 2, 2) * 1, x.narrow(0, 0, 2) * 1}, 0)));
  EXPECT_TRUE(test::same_bits(stack({x.select(0, 0), x.select(0, 1), x.select(0, 2), x.select(0, 3)}), x));

  // A write of a State goes to the State alone, and a gradient passes as through any cat.
  const std::vector<Tensor> q = chunk(x, 3, 1);
  const State s(cat(q, 1));
  s.assign(s.tensor() + 1);
  EXPECT_TRUE(test::same_bits(x, arange(0, 24).reshape({4, 6})));
  Tensor leaf = arange(0, 6, 1, DType::f32).requires_grad_();
  const Tensor again = cat(chunk(leaf, 2, 0), 0);
  EXPECT_EQ(grad({(again * again).sum()}, {leaf})[0].to_vector<float>(), (std::vector<float>{0, 2, 4, 6, 8, 10}));
}

TEST(Cat, StackSplitAndChunk) {
  const Tensor x = counting({5, 2});
  EXPECT_EQ(stack({x, x + 10}, 1).shape(), (Shape{5, 2, 2}));
  EXPECT_EQ(stack({x, x + 10}, -1).select(2, 1).to_vector<float>(), (x + 10).to_vector<float>());
  const std::vector<Tensor> parts = split(x, 2);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[2].shape(), (Shape{1, 2}));
  EXPECT_EQ(cat(parts).to_vector<float>(), x.to_vector<float>());
  EXPECT_EQ(split(x, Dims{1, 4})[1].shape(), (Shape{4, 2}));
  EXPECT_EQ(chunk(x, 4).size(), 3u);
  EXPECT_EQ(chunk(x, 2, 1)[1].to_vector<float>(), (std::vector<float>{1, 3, 5, 7, 9}));
  EXPECT_MESSAGE(ShapeError, split(x, Dims{1, 3}), "split: sizes [1, 3] add up to 4, axis 0 of [5, 2] has 5");
  EXPECT_MESSAGE(ValueError, split(x, 0), "split: expected a size of 1 or more, got 0");
}

// Copies that turn squares of 16, whole and cut, for every size of element.
template <class T>
void check_turned(int64_t rows, int64_t columns) {
  std::vector<T> v(static_cast<size_t>(3 * rows * columns));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<T>(i * 7 % 251);
  const Tensor x = Tensor::from(v, {3, rows, columns});
  for (const Tensor& y : {x.transpose(1, 2), x.permute({2, 0, 1}), x.permute({2, 1, 0})}) {
    const std::vector<T> got = y.contiguous().to_vector<T>();
    each_index(y.shape(), [&](const Dims& at) {
      int64_t from = 0;
      for (int d = 0; d < 3; ++d) from += at[d] * y.strides()[d];
      ASSERT_EQ(got[static_cast<size_t>(row_major(y.shape(), at))], v[static_cast<size_t>(from)]);
    });
  }
}
TEST(View, TransposedCopiesOfAllSizes) {
  for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{{16, 16}, {32, 48}, {33, 17}, {15, 40}}) {
    check_turned<uint8_t>(rows, columns);
    check_turned<int32_t>(rows, columns);
    check_turned<float>(rows, columns);
    check_turned<double>(rows, columns);
  }
  const Tensor half = counting({40, 33}).to(DType::f16);
  EXPECT_EQ(half.t().contiguous().to(DType::f32).to_vector<float>(),
            half.to(DType::f32).t().contiguous().to_vector<float>());
}

}  // namespace
}  // namespace flame
