// Convolutions against plain loops in float64: all passes, options, dtypes and layouts; derivatives; errors.
#include "flame/device/cpu/conv.h"
#include "flame/device/cpu/services.h"
#include "flame/flame.h"
#include "tests/support/op_support.h"
#include "tests/support/plan_support.h"
#include "tests/support/forms.h"

namespace flame {
namespace {

using test::HostTensor;
using test::numbers;
using Inputs = std::vector<Tensor>;
using Pass = ConvDesc::Pass;
constexpr Pass passes[] = {Pass::forward, Pass::backward_data, Pass::backward_weight};

Tensor noise(const Shape& s, uint64_t seed, DType t = DType::f64) {
  Generator g(seed);
  return uniform(s, -1, 1, {.dtype = DType::f64, .generator = &g}).to(t);
}

int64_t place(const Meta& m, const Dims& index) {
  int64_t at = 0;
  for (int i = 0; i < index.rank(); ++i) at += index[i] * m.strides[i];
  return at;
}

// Channels-last, contiguous, or with every second element of a longer last axis.
Meta laid_out(DType t, const Shape& s, int64_t how) {
  if (how == 0) return {t, s, channels_last_strides(s)};
  if (how == 1) return contiguous_meta(t, s);
  Shape wide = s;
  wide[s.rank() - 1] = 2 * s.back() + 1;
  Meta m = contiguous_meta(t, wide);
  m.shape = s;
  m.strides[s.rank() - 1] = 2;
  return m;
}

// Calls fn(x, w, y) with the places of every product that the convolution sums.
template <class F>
void each_product(const ConvDesc& d, F&& fn) {
  const int64_t filters = d.w.shape[0] / d.groups;
  Shape window = d.w.shape;
  window.erase(0);
  test::each_index(d.y.shape, [&](const Dims& o) {
    test::each_index(window, [&](const Dims& k) {
      Dims in{o[0], o[1] / filters * window[0] + k[0]}, w = k;
      for (int i = 0; i < d.stride.rank(); ++i) {
        in.push_back(o[i + 2] * d.stride[i] + k[i + 1] * d.dilation[i] - d.padding[i]);
        if (in.back() < 0 || in.back() >= d.x.shape[i + 2]) return;
      }
      w.insert(0, o[1]);
      fn(place(d.x, in), place(d.w, w), place(d.y, o));
    });
  });
}

// Runs one pass on random numbers and compares with the loops; the bound is that of summing in the compute type.
void expect_right(const ConvDesc& d, const Plan& plan, std::mt19937_64& g, const std::string& what) {
  HostTensor x(d.x), w(d.w), y(d.y), bias(contiguous_meta(d.x.dtype, {d.w.shape[0]}));
  for (HostTensor* t : {&x, &w, &y, &bias}) t->randomize(g);
  const std::vector<double> xs = x.values(), ws = w.values(), ys = y.values();
  HostTensor& out = d.pass == Pass::forward ? y : d.pass == Pass::backward_data ? x : w;
  const auto n = static_cast<size_t>(test::extent(out.meta));
  std::vector<double> sum(n, 0), size(n, 0), terms(n, 2);
  const auto put = [&](int64_t at, double v) {
    sum[static_cast<size_t>(at)] += v;
    size[static_cast<size_t>(at)] += std::abs(v);
    terms[static_cast<size_t>(at)] += 1;
  };
  if (d.bias) test::each_index(d.y.shape, [&](const Dims& o) { put(place(d.y, o), bias.at(o[1])); });
  each_product(d, [&](int64_t a, int64_t b, int64_t c) {
    const double xv = xs[static_cast<size_t>(a)], wv = ws[static_cast<size_t>(b)], yv = ys[static_cast<size_t>(c)];
    if (d.pass == Pass::forward) put(c, xv * wv);
    else if (d.pass == Pass::backward_data) put(a, yv * wv);
    else put(b, xv * yv);
  });
  if (d.pass == Pass::forward && d.bias) test::run_plan(plan, {&x, &w, &bias, &y});
  else if (d.pass == Pass::forward) test::run_plan(plan, {&x, &w, &y});
  else if (d.pass == Pass::backward_data) test::run_plan(plan, {&y, &w, &x});
  else test::run_plan(plan, {&x, &y, &w});
  const double sum_unit = d.x.dtype == DType::f64 ? 0x1p-53 : 0x1p-24, unit = test::rounding(d.x.dtype);
  size_t wrong = 0;
  test::each_index(out.meta.shape, [&](const Dims& o) {
    const int64_t at = place(out.meta, o);
    const auto i = static_cast<size_t>(at);
    const double smallest = d.x.dtype == DType::f16 ? 0x1p-25 : 0;  // half a subnormal step
    if (!(std::abs(out.at(at) - sum[i]) <= terms[i] * sum_unit * size[i] + unit * std::abs(sum[i]) + smallest)) ++wrong;
  });
  EXPECT_EQ(wrong, 0u) << what << ": pass " << static_cast<int>(d.pass) << " " << name_of(d.x.dtype) << " x "
                       << to_string(d.x.shape) << " w " << to_string(d.w.shape) << " y " << to_string(d.y.shape);
  EXPECT_TRUE(out.guards_hold()) << what;
}

bool random_convolution(std::mt19937_64& g, DType t, ConvDesc& d) {
  const auto pick = [&](int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(g); };
  const int axes = static_cast<int>(pick(1, 3));
  const int64_t many = pick(0, 9) == 0 ? 20 : 5, side = axes == 3 ? 5 : pick(0, 9) == 0 ? 20 : 8;
  d.groups = pick(0, 2) ? 1 : pick(1, 4);
  int64_t in = d.groups * pick(1, many), out = d.groups * pick(1, many);
  if (pick(0, 15) == 0) d.groups = in, out = in * pick(1, 2);  // depthwise
  const int64_t images = pick(0, axes == 3 ? 2 : 3);
  Shape x{images, in}, y{images, out}, w{out, in / d.groups};
  for (int i = 0; i < axes; ++i) {
    x.push_back(pick(1, side));
    w.push_back(pick(1, axes == 3 ? 3 : 4));
    d.stride.push_back(pick(1, 4));
    d.padding.push_back(pick(0, 3));
    d.padding_after.push_back(pick(0, 3) ? d.padding[i] : pick(-1, 3));
    d.dilation.push_back(pick(0, 2) ? 1 : pick(2, 3));
    const int64_t room = x.back() + d.padding[i] + d.padding_after[i] - d.dilation[i] * (w.back() - 1) - 1;
    if (room < 0) return false;
    y.push_back(room / d.stride[i] + 1);
  }
  d.x = laid_out(t, x, pick(0, 2) ? 0 : pick(1, 2));
  d.y = laid_out(t, y, pick(0, 2) ? 0 : pick(1, 2));
  d.w = contiguous_meta(t, w);
  return true;
}

TEST(Conv, EveryPassOnRandomConvolutions) {
  std::mt19937_64 g(1);
  int done = 0, by_library = 0;
  const int rounds = test::quick() ? 20 : test::full() ? 2000 : 120;
  for (int round = 0; round < rounds; ++round)
    for (DType t : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
      ConvDesc d;
      if (!random_convolution(g, t, d)) continue;
      for (Pass pass : passes) {
        d.pass = pass;
        d.bias = pass == Pass::forward && round % 2 == 0;
        expect_right(d, *cpu_conv(d), g, "chosen");
        ++done;
        if (d.x.shape[0] == 0 || size_of(t) == 2) continue;
        ConvDesc own = d;
        own.x = laid_out(t, d.x.shape, 0);
        own.y = laid_out(t, d.y.shape, 0);
        expect_right(own, *conv_im2col(own), g, "im2col");
#ifdef FLAME_WITH_ONEDNN
        if (const Ref<Plan> plan = conv_onednn(own)) expect_right(own, *plan, g, "onednn"), ++by_library;
#endif
      }
    }
  EXPECT_GT(done, 6 * rounds);
#ifdef FLAME_WITH_ONEDNN
  EXPECT_GT(by_library, rounds / 2);
#endif
}

// More windows than are held at once: several parts, and a smaller last one.
TEST(Conv, TheOwnKernelInSeveralParts) {
  std::mt19937_64 g(2);
  ConvDesc d{Pass::forward,
             laid_out(DType::f64, {3, 8, 50, 70}, 0),
             contiguous_meta(DType::f64, {3, 8, 5, 5}),
             laid_out(DType::f64, {3, 3, 50, 70}, 0),
             {1, 1},
             {2, 2},
             {2, 2},
             {1, 1},
             1};
  for (Pass pass : passes) {
    d.pass = pass;
    expect_right(d, *conv_im2col(d), g, "parts");
  }
}

TEST(Conv, TheOwnKernelsBitsDoNotDependOnTheThreads) {
  std::mt19937_64 g(3);
  ConvDesc d{Pass::forward,
             laid_out(DType::f32, {5, 8, 30, 30}, 0),
             contiguous_meta(DType::f32, {6, 4, 3, 3}),
             laid_out(DType::f32, {5, 6, 30, 30}, 0),
             {1, 1},
             {1, 1},
             {1, 1},
             {1, 1},
             2};
  HostTensor x(d.x), w(d.w), y(d.y);
  for (HostTensor* t : {&x, &w, &y}) t->randomize(g);
  const int before = num_threads();
  for (Pass pass : passes) {
    d.pass = pass;
    std::vector<HostTensor> seen;
    for (int threads : {1, 2, 3}) {
      set_num_threads(threads);
      seen.emplace_back(pass == Pass::forward ? d.y : pass == Pass::backward_data ? d.x : d.w);
      HostTensor* a = pass == Pass::backward_data ? &y : &x;
      test::run_plan(*conv_im2col(d), {a, pass == Pass::backward_weight ? &y : &w, &seen.back()});
    }
    for (const HostTensor& s : seen) EXPECT_TRUE(s == seen[0]);
  }
  set_num_threads(before);
}

TEST(Conv, DescriptionsThatDoNotFitAreRefused) {
  ConvDesc d{Pass::forward,
             laid_out(DType::f32, {1, 2, 4, 4}, 0),
             contiguous_meta(DType::f32, {3, 2, 3, 3}),
             laid_out(DType::f32, {1, 3, 2, 3}, 0),
             {1, 1},
             {0, 0},
             {0, 0},
             {1, 1},
             1};
  EXPECT_MESSAGE(ShapeError, cpu_conv(d), "conv: shapes [1, 2, 4, 4] and [3, 2, 3, 3] do not give [1, 3, 2, 3]");
  d.y = laid_out(DType::f64, {1, 3, 2, 2}, 0);
  EXPECT_THROW(cpu_conv(d), DTypeError);
}

// ---- the op ----

struct Case {
  Shape x, w;
  Conv2dOptions options;
};
const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {{2, 3, 6, 5}, {4, 3, 3, 3}, {}},
      {{1, 1, 5, 5}, {2, 1, 3, 2}, {.padding = 1}},
      {{1, 2, 7, 6}, {4, 2, 2, 2}, {.stride = {2, 3}}},
      {{1, 2, 7, 7}, {4, 2, 2, 2}, {.stride = 3, .padding = {1, 0}}},
      {{1, 3, 7, 8}, {2, 3, 3, 2}, {.dilation = {2, 3}}},
      {{2, 4, 4, 4}, {6, 2, 3, 3}, {.padding = {1, 2}, .groups = 2}},
      {{1, 4, 4, 4}, {4, 1, 3, 3}, {.padding = 1, .groups = 4}},
      {{2, 3, 4, 4}, {5, 3, 1, 1}, {.stride = 2}},
      {{1, 2, 1, 1}, {3, 2, 3, 3}, {.stride = 2, .padding = 2, .dilation = 2}},
      {{0, 2, 3, 3}, {3, 2, 2, 2}, {}},
  };
  return all;
}

Tensor reference(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o) {
  const Shape &s = x.shape(), &t = w.shape();
  Shape out{s[0], t[0], 0, 0};
  for (int i = 0; i < 2; ++i)
    out[i + 2] = (s[i + 2] + 2 * o.padding[i] - o.dilation[i] * (t[i + 2] - 1) - 1) / o.stride[i] + 1;
  const ConvDesc d{Pass::forward,
                   contiguous_meta(DType::f64, s),
                   contiguous_meta(DType::f64, t),
                   contiguous_meta(DType::f64, out),
                   o.stride.dims(),
                   o.padding.dims(),
                   o.padding.dims(),
                   o.dilation.dims(),
                   o.groups};
  const std::vector<double> xv = numbers(x), wv = numbers(w);
  std::vector<double> y(static_cast<size_t>(numel(out)), 0);
  each_product(d, [&](int64_t i, int64_t j, int64_t k) {
    y[static_cast<size_t>(k)] += xv[static_cast<size_t>(i)] * wv[static_cast<size_t>(j)];
  });
  const Tensor result = Tensor::from(y, out);
  return b.defined() ? result + b.to(DType::f64).reshape({1, t[0], 1, 1}) : result;
}

TEST(Conv2d, OptionsDtypesAndLayouts) {
  for (const Case& c : cases())
    for (DType t : {DType::f64, DType::f32, DType::bf16, DType::f16})
      for (test::Form f : test::all_forms)
        for (bool with_bias : {false, true}) {
          const Tensor x = test::in_form(noise(c.x, 1, t), f), w = test::in_form(noise(c.w, 2, t), f);
          const Tensor b = with_bias ? test::in_form(noise({c.w[0]}, 3, t), f) : Tensor();
          const Tensor y = conv2d(x, w, b, c.options), want = reference(x, w, b, c.options);
          EXPECT_EQ(y.dtype(), t);
          ASSERT_EQ(y.shape(), want.shape());
          EXPECT_LE(test::error_of(numbers(y), numbers(want), t).units, 8)
              << name_of(t) << to_string(c.x) << to_string(c.w) << test::name_of(f);
        }
}

TEST(Conv2d, EmitsChannelsLast) {
  const Tensor x = noise({2, 3, 6, 5}, 1, DType::f32), w = noise({4, 3, 3, 3}, 2, DType::f32);
  const Tensor y = conv2d(x, w);
  EXPECT_TRUE(is_channels_last(y.shape(), y.strides()));
  EXPECT_FALSE(is_contiguous(y.shape(), y.strides()));
  const Tensor one = conv2d(x, noise({1, 3, 3, 3}, 2, DType::f32));
  EXPECT_TRUE(is_contiguous(one.shape(), one.strides()));
  // Channels-last input is taken as it is: one launch.
  const Tensor in = relu(y);
  in.data();
  const Tensor v = noise({4, 4, 1, 1}, 3, DType::f32);
  v.data();
  const Stats before = stats();
  conv2d(in, v).data();
  EXPECT_EQ(stats().launches - before.launches, 1u);
}

TEST(Conv2d, DerivativesOfFirstAndSecondOrder) {
  for (const Case& c : cases()) {
    const TensorFn fn = [&](const Inputs& in) { return Inputs{conv2d(in[0], in[1], in[2], c.options)}; };
    const Tensor x = noise(c.x, 1), w = noise(c.w, 2), b = noise({c.w[0]}, 3);
    gradcheck(fn, {x, w, b});
    if (numel(c.x) <= 64 || !test::quick()) gradgradcheck(fn, {x, w, b});
  }
}

TEST(Conv2d, ErrorsNameWhatDoesNotFit) {
  const Tensor x = zeros({1, 4, 5, 5}), w = zeros({6, 4, 3, 3});
  EXPECT_MESSAGE(ShapeError, conv2d(zeros({5, 5}), w), "conv2d: expected x [N, C, H, W] or [C, H, W], got [5, 5]");
  EXPECT_MESSAGE(ShapeError, conv2d(x, zeros({6, 4, 3})),
                 "conv2d: expected a weight [O, C / groups, R, S], got [6, 4, 3]");
  EXPECT_MESSAGE(ShapeError, conv2d(x, zeros({6, 3, 3, 3})),
                 "expected x with 3 channels for weight [6, 3, 3, 3] and 1 groups, got [1, 4, 5, 5]");
  EXPECT_MESSAGE(ShapeError, conv2d(x, zeros({3, 2, 3, 3}), {}, {.groups = 2}), "2 groups do not divide the 3 filters");
  EXPECT_MESSAGE(ShapeError, conv2d(x, zeros({6, 4, 6, 3})),
                 "conv2d: a window of 6 does not fit into axis 2 of x [1, 4, 5, 5], padded to 5");
  EXPECT_MESSAGE(ShapeError, conv2d(x, w, zeros({4})), "conv2d: expected a bias of shape [6], got [4]");
  EXPECT_MESSAGE(ValueError, conv2d(x, w, {}, {.stride = 0}), "stride [0, 0]");
  EXPECT_MESSAGE(ValueError, conv2d(x, w, {}, {.padding = {0, -1}}), "padding [0, -1]");
  EXPECT_MESSAGE(ValueError, conv2d(x, w, {}, {.dilation = {1, 0}}), "dilation [1, 0]");
  EXPECT_MESSAGE(ValueError, conv2d(x, w, {}, {.groups = 0}), "conv2d: expected 1 group or more, got 0");
  EXPECT_MESSAGE(DTypeError, conv2d(zeros({1, 4, 5, 5}, DType::i32), zeros({6, 4, 3, 3}, DType::i32)),
                 "conv2d: expected a floating dtype, got int32");
}

}  // namespace
}  // namespace flame
