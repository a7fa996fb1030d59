// Pooling against plain loops: all options, dtypes and layouts; ties, NaN and infinities; derivatives; errors.
#include <cmath>
#include <limits>

#include "flame/flame.h"
#include "tests/support/op_support.h"
#include "tests/support/forms.h"

namespace flame {
namespace {

using test::numbers;
using Inputs = std::vector<Tensor>;
constexpr double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();

// Distinct values in a scrambled order; exact in every floating dtype up to 256 elements.
Tensor scrambled(const Shape& s, DType t = DType::f64) {
  const int64_t n = numel(s);
  std::vector<double> v(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    v[static_cast<size_t>(i)] =
        static_cast<double>(i * 37 % 101) / 4 - 12 + (n > 101 ? static_cast<double>(i / 101) / 8 : 0);
  return Tensor::from(v, s).to(t);
}
Tensor channels_last(const Tensor& x) {
  const Tensor y = x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
  return y;
}

struct Case {
  Shape x;
  Pair kernel, stride = 0, padding = 0, dilation = 1;
  bool ceil_mode = false;
  Pair step() const { return stride == Pair(0) ? kernel : stride; }
  MaxPool2dOptions max() const { return {kernel, stride, padding, dilation, ceil_mode}; }
  AvgPool2dOptions avg(bool count) const { return {kernel, stride, padding, ceil_mode, count}; }
};
const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {{2, 3, 4, 4}, 2},
      {{1, 3, 7, 5}, {3, 2}},
      {{2, 2, 6, 7}, 3, {2, 1}},
      {{1, 2, 7, 6}, 3, 2, 1},
      {{1, 3, 5, 5}, {4, 2}, 1, {2, 1}},
      {{1, 2, 7, 8}, 2, {3, 4}},
      {{1, 2, 8, 7}, {2, 3}, {1, 2}, 1, {2, 1}},
      {{1, 2, 8, 8}, 3, 1, 2, 2},
      {{1, 2, 5, 5}, 2, 0, 0, 1, true},
      {{2, 1, 6, 7}, 3, 2, 1, 1, true},
      {{1, 2, 4, 5}, 3, 3, 1, 1, true},
      {{1, 130, 3, 3}, 2, 1},                    // more channels than are held at once
      {{1, 1, 3, 300}, {2, 3}, {1, 2}, {1, 0}},  // and a longer line
      {{3, 2, 1, 1}, 1},
      {{0, 2, 4, 4}, 2},
      {{2, 0, 4, 4}, 2},
  };
  return all;
}

int64_t out_size(const Case& c, int axis) {
  const int64_t size = c.x[axis + 2], step = c.step()[axis],
                room = size + 2 * c.padding[axis] - c.dilation[axis] * (c.kernel[axis] - 1) - 1;
  int64_t n = room / step + 1;
  if (c.ceil_mode && room % step != 0 && n * step < size + c.padding[axis]) ++n;
  return n;
}

// fn(plane, out, in): every element of every window, by its place; in row-major order of the window.
template <class F>
void each_window_element(const Case& c, F&& fn) {
  const int64_t oh = out_size(c, 0), ow = out_size(c, 1);
  for (int64_t plane = 0; plane < c.x[0] * c.x[1]; ++plane)
    for (int64_t i = 0; i < oh; ++i)
      for (int64_t j = 0; j < ow; ++j)
        for (int64_t r = 0; r < c.kernel[0]; ++r)
          for (int64_t s = 0; s < c.kernel[1]; ++s) {
            const int64_t h = i * c.step()[0] + r * c.dilation[0] - c.padding[0],
                          w = j * c.step()[1] + s * c.dilation[1] - c.padding[1];
            if (h < 0 || w < 0 || h >= c.x[2] || w >= c.x[3]) continue;
            fn(static_cast<size_t>((plane * oh + i) * ow + j), static_cast<size_t>((plane * c.x[2] + h) * c.x[3] + w));
          }
}
Shape out_shape(const Case& c) { return {c.x[0], c.x[1], out_size(c, 0), out_size(c, 1)}; }

// The maxima and where they are: the first of equal ones, the first NaN before any number.
std::vector<double> max_reference(const Case& c, const std::vector<double>& x, std::vector<size_t>& where) {
  std::vector<double> y(static_cast<size_t>(numel(out_shape(c))), -inf);
  where.assign(y.size(), SIZE_MAX);
  each_window_element(c, [&](size_t o, size_t i) {
    if (where[o] != SIZE_MAX && !(x[i] > y[o]) && !(std::isnan(x[i]) && !std::isnan(y[o]))) return;
    y[o] = x[i];
    where[o] = i;
  });
  return y;
}

std::vector<double> average_weights(const Case& c, bool count_padding) {
  std::vector<double> divisor(static_cast<size_t>(numel(out_shape(c))), 0);
  if (!count_padding) {
    each_window_element(c, [&](size_t o, size_t) { divisor[o] += 1; });
    return divisor;
  }
  const int64_t oh = out_size(c, 0), ow = out_size(c, 1);
  for (size_t o = 0; o < divisor.size(); ++o) {
    const int64_t at[2] = {static_cast<int64_t>(o) / ow % oh, static_cast<int64_t>(o) % ow};
    divisor[o] = 1;
    for (int a = 0; a < 2; ++a) {  // a window that hangs over the padding is cut there
      const int64_t start = at[a] * c.step()[a] - c.padding[a];
      divisor[o] *= static_cast<double>(std::min(start + c.kernel[a], c.x[a + 2] + c.padding[a]) - start);
    }
  }
  return divisor;
}

TEST(MaxPool, OptionsDtypesAndLayouts) {
  for (const Case& c : cases())
    for (DType t : {DType::f64, DType::f32, DType::bf16, DType::f16})
      for (bool last : {false, true}) {
        Tensor x = scrambled(c.x, t);
        if (last) x = channels_last(x);
        x.requires_grad_();
        std::vector<size_t> where;
        const std::vector<double> in = numbers(x), want = max_reference(c, in, where);
        const Tensor y = max_pool2d(x, c.max());
        ASSERT_EQ(y.shape(), out_shape(c));
        EXPECT_EQ(y.dtype(), t);
        EXPECT_EQ(numbers(y), want) << to_string(c.x) << name_of(t) << last;
        // Small whole numbers as the incoming gradient, so that sums are exact in every dtype.
        std::vector<double> g(want.size()), dx(in.size(), 0);
        for (size_t o = 0; o < g.size(); ++o) {
          g[o] = static_cast<double>(o % 5) - 2;
          if (where[o] != SIZE_MAX) dx[where[o]] += g[o];
        }
        backward(y, {.gradient = Tensor::from(g, y.shape()).to(t)});
        EXPECT_EQ(numbers(x.grad()), dx) << to_string(c.x) << name_of(t) << last;
      }
}

TEST(MaxPool, StridedInputsInEveryForm) {
  const Case c{{2, 3, 5, 6}, 3, 2, 1};
  for (test::Form f : test::all_forms) {
    const Tensor x = test::in_form(scrambled(c.x), f);
    std::vector<size_t> where;
    EXPECT_EQ(numbers(max_pool2d(x, c.max())), max_reference(c, numbers(x), where)) << test::name_of(f);
  }
}

TEST(MaxPool, TiesNanAndInfinities) {
  const Case c{{1, 1, 2, 8}, 2};
  const std::vector<double> v{1, 1, nan, 3, -inf, -inf, nan, 2,  //
                              1, 1, nan, 3, -inf, -inf, inf, nan};
  for (bool last : {false, true}) {
    std::vector<double> two;  // a second channel with other numbers
    for (double a : v) two.push_back(a), two.push_back(7);
    Tensor x = last ? Tensor::from(two, {1, 2, 8, 2}).permute({0, 3, 1, 2}) : Tensor::from(v, c.x);
    x.requires_grad_();
    const Tensor y = max_pool2d(x, {.kernel = 2});
    const std::vector<double> got = numbers(y);
    EXPECT_EQ(got[0], 1);
    EXPECT_TRUE(std::isnan(got[1]));
    EXPECT_EQ(got[2], -inf);
    EXPECT_TRUE(std::isnan(got[3]));
    backward(y.sum());
    std::vector<double> g = numbers(x.grad());
    g.resize(16);
    EXPECT_EQ(g, (std::vector<double>{1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})) << last;
  }
}

TEST(MaxPool, DerivativesOfFirstAndSecondOrder) {
  for (const Case& c : cases()) {
    if (numel(c.x) > 256) continue;
    for (bool last : {false, true}) {
      const TensorFn fn = [&](const Inputs& in) {
        return Inputs{square(max_pool2d(last ? channels_last(in[0]) : in[0], c.max()))};
      };
      gradcheck(fn, {scrambled(c.x)});
      if (!test::quick()) gradgradcheck(fn, {scrambled(c.x)});
    }
  }
}

TEST(AvgPool, OptionsDtypesAndLayouts) {
  for (const Case& c : cases()) {
    if (!(c.dilation == Pair(1))) continue;
    for (DType t : {DType::f64, DType::f32, DType::bf16, DType::f16})
      for (bool last : {false, true})
        for (bool count : {false, true}) {
          Tensor x = scrambled(c.x, t);
          if (last) x = channels_last(x);
          x.requires_grad_();
          const std::vector<double> in = numbers(x), by = average_weights(c, count);
          std::vector<double> want(by.size(), 0), dx(in.size(), 0), g(by.size());
          for (size_t o = 0; o < g.size(); ++o) g[o] = static_cast<double>(o % 5) - 2;
          each_window_element(c, [&](size_t o, size_t i) {
            want[o] += in[i] / by[o];
            dx[i] += g[o] / by[o];
          });
          const Tensor y = avg_pool2d(x, c.avg(count));
          ASSERT_EQ(y.shape(), out_shape(c));
          EXPECT_LE(test::error_of(numbers(y), want, t).units, 4) << to_string(c.x) << name_of(t) << last << count;
          backward(y, {.gradient = Tensor::from(g, y.shape()).to(t)});
          EXPECT_LE(test::error_of(numbers(x.grad()), dx, t).units, 8) << to_string(c.x) << name_of(t) << last << count;
        }
  }
}

TEST(AvgPool, DerivativesOfFirstAndSecondOrder) {
  for (const Case& c : cases()) {
    if (!(c.dilation == Pair(1)) || numel(c.x) > 256) continue;
    for (bool last : {false, true}) {
      const TensorFn fn = [&](const Inputs& in) {
        return Inputs{square(avg_pool2d(last ? channels_last(in[0]) : in[0], c.avg(false)))};
      };
      gradcheck(fn, {scrambled(c.x)});
      if (!test::quick()) gradgradcheck(fn, {scrambled(c.x)});
    }
  }
}

TEST(Pool, TheResultKeepsTheMemoryOrder) {
  const Tensor x = scrambled({2, 3, 4, 4}, DType::f32), y = channels_last(x);
  for (const auto& pool : {+[](const Tensor& t) { return max_pool2d(t, {.kernel = 2}); },
                           +[](const Tensor& t) { return avg_pool2d(t, {.kernel = 2}); }}) {
    const Tensor a = pool(x), b = pool(y);
    EXPECT_TRUE(is_contiguous(a.shape(), a.strides()));
    EXPECT_TRUE(is_channels_last(b.shape(), b.strides()));
    EXPECT_EQ(numbers(a), numbers(b));
  }
}

TEST(Pool, BitsDoNotDependOnTheThreads) {
  Generator g(1);
  const int before = num_threads();
  for (const Tensor& in :
       {randn({4, 33, 30, 31}, {.generator = &g}), randn({4, 30, 31, 33}, {.generator = &g}).permute({0, 3, 1, 2})}) {
    std::vector<std::vector<float>> seen;
    for (int threads : {1, 2, 3}) {
      set_num_threads(threads);
      Tensor x = in.detach();
      x.requires_grad_();
      const Tensor y = avg_pool2d(max_pool2d(x, {.kernel = 3, .stride = 1}), {.kernel = 3, .stride = 2, .padding = 1});
      backward(square(y).sum());
      seen.push_back(x.grad().to_vector<float>());
    }
    EXPECT_EQ(seen[0], seen[1]);
    EXPECT_EQ(seen[0], seen[2]);
  }
  set_num_threads(before);
}

// Three taps far apart, of which only the middle one ever meets the axis: the pool is the identity, and so is its gradient.
TEST(Pool, WindowsFarLargerThanTheAxis) {
  const auto wide = [](int64_t dilation) {
    return MaxPool2dOptions{.kernel = {1, 3}, .stride = 1, .padding = {0, dilation}, .dilation = {1, dilation}};
  };
  for (bool last : {false, true}) {
    Tensor x = scrambled({1, 2, 2, 9}, DType::f32);
    if (last) x = channels_last(x);
    x.requires_grad_();
    const Tensor y = max_pool2d(x, wide((int64_t{1} << 30) - 5)), g = scrambled(y.shape(), DType::f32);
    EXPECT_EQ(numbers(y), numbers(x));
    EXPECT_EQ(numbers(grad({y}, {x}, {.grad_outputs = {g}})[0]), numbers(g));
  }
  const Tensor x = zeros({1, 1, 1, 9});
  EXPECT_MESSAGE(ShapeError, max_pool2d(x, wide(int64_t{1} << 30)),
                 "max_pool2d: expected windows and padded axes below 2^31, got a window of 2147483649 and 9 + 2 * ");
  EXPECT_MESSAGE(ValueError, max_pool2d(x, wide(int64_t{1} << 31)), "max_pool2d: expected options below 2^31");
  EXPECT_MESSAGE(ValueError, avg_pool2d(x, {.kernel = {1, INT64_MAX}}), "avg_pool2d: expected options below 2^31");
  EXPECT_MESSAGE(ShapeError, adaptive_avg_pool2d(x, {int64_t{1} << 40, int64_t{1} << 40}),
                 "adaptive_avg_pool2d: shape [1, 1, 1099511627776, 1099511627776] has more than 2^60 elements");
}

TEST(Pool, ErrorsNameWhatDoesNotFit) {
  const Tensor x = zeros({1, 2, 4, 4});
  EXPECT_MESSAGE(ShapeError, max_pool2d(zeros({4, 4}), {.kernel = 2}),
                 "max_pool2d: expected x [N, C, H, W] or [C, H, W], got [4, 4]");
  EXPECT_MESSAGE(ShapeError, max_pool2d(x, {.kernel = {2, 5}}),
                 "max_pool2d: a window of 5 does not fit into axis 3 of x [1, 2, 4, 4] with padding 0");
  EXPECT_MESSAGE(ShapeError, avg_pool2d(zeros({1, 2, 0, 4}), {.kernel = 1}),
                 "avg_pool2d: expected elements to pool, got x [1, 2, 0, 4]");
  EXPECT_MESSAGE(ValueError, max_pool2d(x, {.kernel = 0}), "kernel [0, 0]");
  EXPECT_MESSAGE(ValueError, max_pool2d(x, {.kernel = 2, .stride = {1, 0}}), "stride [1, 0]");
  EXPECT_MESSAGE(ValueError, avg_pool2d(x, {.kernel = 2, .stride = -1}), "stride [-1, -1]");
  EXPECT_MESSAGE(ValueError, max_pool2d(x, {.kernel = 2, .padding = 2}),
                 "max_pool2d: expected padding of at most half the window of 2, got 2");
  EXPECT_MESSAGE(ValueError, max_pool2d(x, {.kernel = 2, .dilation = 0}), "dilation [0, 0]");
  EXPECT_MESSAGE(DTypeError, avg_pool2d(zeros({1, 2, 4, 4}, DType::i64), {.kernel = 2}),
                 "avg_pool2d: expected a floating dtype, got int64");
}

}  // namespace
}  // namespace flame
