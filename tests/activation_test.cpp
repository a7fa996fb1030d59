// Activations, special functions and composed elementwise functions where the loops do not look: kinks, second
// derivatives at 0, chains of derivatives, launches, what backward keeps, and the layers.
#include <gtest/gtest.h>

#include <cmath>

#include "flame/flame.h"
#include "tests/support/op_support.h"

namespace flame {
namespace {

const double inf = std::numeric_limits<double>::infinity();
using Numbers = std::vector<double>;
Tensor f64(const Numbers& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); }
Numbers read(const Tensor& t) { return t.detach().to(DType::f64).to_vector<double>(); }

// The n-th derivative of fn at x.
double derivative(const std::function<Tensor(const Tensor&)>& fn, double at, int n) {
  Tensor x = full({}, at, DType::f64);
  x.requires_grad_();
  Tensor y = fn(x);
  for (int i = 0; i < n; ++i) y = grad({y}, {x}, {.create_graph = true})[0];
  return y.item();
}

TEST(Activations, SecondDerivativesAtZero) {
  const auto second = [](auto fn) { return derivative(fn, 0, 2); };
  // Of the branch that holds 0.
  EXPECT_DOUBLE_EQ(second([](const Tensor& x) { return elu(x, 0.5); }), 0.5);
  EXPECT_DOUBLE_EQ(second([](const Tensor& x) { return celu(x, 0.5); }), 2);
  EXPECT_DOUBLE_EQ(second([](const Tensor& x) { return selu(x); }), 1.7580993408473768);
  EXPECT_DOUBLE_EQ(second([](const Tensor& x) { return gelu_tanh(x); }), std::sqrt(2 / M_PI));
  EXPECT_DOUBLE_EQ(second([](const Tensor& x) { return sinc(x); }), -M_PI * M_PI / 3);
}

TEST(Activations, LargeInputsHaveFiniteSecondDerivatives) {
  for (auto fn : std::initializer_list<Tensor (*)(const Tensor&)>{
           [](const Tensor& x) { return elu(x); }, [](const Tensor& x) { return celu(x); },
           [](const Tensor& x) { return selu(x); }, [](const Tensor& x) { return mish(x); },
           [](const Tensor& x) { return gelu_tanh(x); }, [](const Tensor& x) { return log_sigmoid(x); },
           [](const Tensor& x) { return softplus(x, {.beta = 2}); }})
    for (double x : {-1000.0, 1000.0})
      for (int n : {1, 2}) EXPECT_TRUE(std::isfinite(derivative(fn, x, n))) << x << ", " << n;
}

TEST(Activations, DefaultsArePyTorchs) {
  const Tensor x = f64({-3, -0.25, 0, 0.25, 3});
  EXPECT_EQ(read(leaky_relu(x)), (Numbers{-0.03, -0.0025, 0, 0.25, 3}));
  EXPECT_EQ(read(hardtanh(x)), (Numbers{-1, -0.25, 0, 0.25, 1}));
  EXPECT_EQ(read(softshrink(x)), (Numbers{-2.5, 0, 0, 0, 2.5}));
  EXPECT_EQ(read(hardshrink(x)), (Numbers{-3, 0, 0, 0, 3}));
  EXPECT_EQ(read(elu(x)), read(elu(x, 1)));
  EXPECT_EQ(read(celu(x)), read(celu(x, 1)));
  EXPECT_EQ(read(gelu(x, Approximate::tanh)), read(gelu_tanh(x)));
  EXPECT_EQ(read(gelu(x, Approximate::none)), read(gelu(x)));
  EXPECT_NE(read(gelu(x, Approximate::none)), read(gelu_tanh(x)));
  EXPECT_EQ(leaky_relu(arange(3)).dtype(), DType::f32);
}

TEST(Activations, PreluTrainsOneWeightAChannel) {
  const Tensor x = f64({-1, 2, -3, 4, -5, -6}).reshape({2, 3});
  Tensor w = f64({0.5, 0.25, 0.125});
  w.requires_grad_();
  const Tensor y = prelu(x, w);
  EXPECT_EQ(read(y), (Numbers{-0.5, 2, -0.375, 4, -1.25, -0.75}));
  backward(sum(y));
  EXPECT_EQ(read(w.grad()), (Numbers{-1, -5, -9}));
}

TEST(Activations, GatedUnitsKeepTheirInputAlone) {
  for (auto fn : std::initializer_list<Tensor (*)(const Tensor&)>{[](const Tensor& x) { return glu(x); },
                                                                  [](const Tensor& x) { return swiglu(x); },
                                                                  [](const Tensor& x) { return geglu(x); }}) {
    Tensor x = randn({64, 1024}).requires_grad_();
    x.data();
    const size_t before = memory_stats().allocated;
    const uint64_t launches = stats().launches;
    const Tensor y = fn(x);
    y.data();
    EXPECT_EQ(stats().launches - launches, 1u);
    EXPECT_LE(memory_stats().allocated - before, 64 * 512 * sizeof(float) + 4096);
  }
}

TEST(Activations, OneLaunchEachWay) {
  const Tensor g = randn({64, 100});
  g.data();
  for (auto fn : std::initializer_list<Tensor (*)(const Tensor&)>{
           [](const Tensor& x) { return mish(x); }, [](const Tensor& x) { return gelu_tanh(x); },
           [](const Tensor& x) { return elu(x); }, [](const Tensor& x) { return hardswish(x); },
           [](const Tensor& x) { return softplus(x, {.beta = 2}); }}) {
    Tensor x = randn({64, 100}).requires_grad_();
    x.data();
    uint64_t before = stats().launches;
    const Tensor y = fn(x);
    y.data();
    EXPECT_EQ(stats().launches - before, 1u);
    before = stats().launches;
    grad({y}, {x}, {.grad_outputs = {g}})[0].data();
    EXPECT_EQ(stats().launches - before, 1u);
  }
}

TEST(SpecialFunctions, DerivativesOfLgammaAreThePolygammas) {
  // DLMF 5.4.12 and 5.15.2: psi(1) = -gamma, psi^(n)(1) = (-1)^(n+1) n! zeta(n + 1).
  const double zeta[] = {
      0, 0, 1.6449340668482264365, 1.2020569031595942854, 1.0823232337111381915, 1.0369277551433699263};
  const auto at_one = [](int n) { return derivative([](const Tensor& x) { return lgamma(x); }, 1, n); };
  EXPECT_DOUBLE_EQ(at_one(1), -0.57721566490153286061);
  double factorial = 1;
  for (int n = 1; n < 5; ++n) {
    factorial *= n;
    EXPECT_NEAR(at_one(n + 1), (n % 2 ? 1 : -1) * factorial * zeta[n + 1], 1e-14 * factorial);
  }
}

TEST(SpecialFunctions, PolygammaOfEveryOrderAndBelowZero) {
  const Tensor x = f64({0.25, 1, 3.5, 20, 1e4, -0.5, -1.25, -30.75});
  for (int n = 1; n < 12; ++n) {
    const Numbers got = read(polygamma(n, x)), next = read(polygamma(n, x + 1));
    // DLMF 5.15.5: the recurrence.
    for (size_t i = 0; i < got.size(); ++i) {
      const double step = (n % 2 ? -1 : 1) * std::tgamma(n + 1) * std::pow(read(x)[i], -n - 1);
      const double scale = std::max({std::abs(got[i]), std::abs(next[i]), std::abs(step)});
      EXPECT_NEAR(next[i] - got[i], step, 1e-13 * scale) << n << ", " << read(x)[i];
    }
  }
  EXPECT_EQ(read(polygamma(2, f64({inf, 0, -1}))), (Numbers{-0.0, -inf, -inf}));
  EXPECT_TRUE(std::isnan(read(polygamma(-1, f64({2})))[0]));
}

TEST(SpecialFunctions, ErfinvUndoesErf) {
  const Tensor x = linspace(-3, 3, 61, DType::f64);
  const Numbers want = read(x), got = read(erfinv(erf(x)));
  for (size_t i = 0; i < want.size(); ++i)
    EXPECT_NEAR(got[i], want[i], 1e-15 + 2e-16 * std::exp(want[i] * want[i])) << want[i];
}

TEST(SpecialFunctions, SincSlopeIsSmooth) {
  // The series and the closed form meet at 1/4; the true slope is (cos(pi x) - sinc(x)) / x.
  const auto slope = [](double x) { return derivative([](const Tensor& t) { return sinc(t); }, x, 1); };
  for (double x : {0.2, 0.2499999, 0.25, 0.2500001, 0.3, 1.5}) {
    const double want = (std::cos(M_PI * x) - std::sin(M_PI * x) / (M_PI * x)) / x;
    EXPECT_NEAR(slope(x), want, 4e-15) << x;
    EXPECT_NEAR(slope(-x), -want, 4e-15) << x;
  }
  EXPECT_NEAR(slope(1e-9), -M_PI * M_PI / 3 * 1e-9, 1e-23);
}

TEST(Elementwise, NanToNumTakesTheDtypesLimits) {
  const auto of = [](DType t) { return read(nan_to_num(f64({NAN, inf, -inf, 2}).to(t))); };
  EXPECT_EQ(of(DType::f64), (Numbers{0, 1.7976931348623157e308, -1.7976931348623157e308, 2}));
  EXPECT_EQ(of(DType::f32), (Numbers{0, 3.4028234663852886e38, -3.4028234663852886e38, 2}));
  EXPECT_EQ(of(DType::f16), (Numbers{0, 65504, -65504, 2}));
  EXPECT_EQ(of(DType::bf16), (Numbers{0, 3.3895313892515355e38, -3.3895313892515355e38, 2}));
  Tensor x = f64({NAN, inf, -inf, 2}).requires_grad_();
  backward(sum(nan_to_num(x)));
  EXPECT_EQ(read(x.grad()), (Numbers{0, 0, 0, 1}));
}

TEST(Elementwise, AllcloseReadsTheAnswer) {
  const Tensor a = f64({1, 2, inf});
  EXPECT_TRUE(allclose(a, f64({1, 2 + 1e-6, inf})));
  EXPECT_FALSE(allclose(a, f64({1, 2.001, inf})));
  EXPECT_TRUE(allclose(a, f64({1, 2.001, inf}), {.atol = 0.01}));
  EXPECT_FALSE(allclose(f64({NAN}), f64({NAN})));
  EXPECT_TRUE(allclose(f64({NAN}), f64({NAN}), {.equal_nan = true}));
  EXPECT_TRUE(allclose(f64({}), f64({})));
  EXPECT_TRUE(allclose(full({2}, 200, DType::u8), full({2}, 201, DType::u8), {.atol = 1}));
  EXPECT_FALSE(allclose(full({2}, 0, DType::u8), full({2}, 255, DType::u8), {.atol = 2}));
}

TEST(IntegerFunctions, EndsOfTheRange) {
  const auto i8 = [](const std::vector<int8_t>& v) { return Tensor::from(v, {static_cast<int64_t>(v.size())}); };
  using Bytes = std::vector<int8_t>;
  const auto bytes = [](const Tensor& t) { return t.to_vector<int8_t>(); };
  EXPECT_EQ(bytes(floor_divide(i8({-128, 7, -7, 5}), i8({-1, -2, 2, 0}))), (Bytes{-128, -4, -4, 0}));
  EXPECT_EQ(bytes(gcd(i8({-128, -128, 0, 12}), i8({64, 0, 0, -18}))), (Bytes{64, -128, 0, 6}));
  EXPECT_EQ(bytes(lcm(i8({4, 0, -3, 21}), i8({6, 5, 7, 6}))), (Bytes{12, 0, 21, 42}));
  EXPECT_EQ(bytes(bitwise_left_shift(i8({1, -1, 1, 1}), i8({7, 1, 8, -1}))), (Bytes{-128, -2, 0, 0}));
  EXPECT_EQ(bytes(bitwise_right_shift(i8({-128, 64, -1, -5}), i8({7, 8, 9, -1}))), (Bytes{-1, 0, -1, -1}));
  const Tensor yes = full({1}, true, DType::boolean), no = full({1}, false, DType::boolean);
  EXPECT_EQ(bitwise_left_shift(yes, no).to_vector<bool>(), std::vector<bool>{true});
  EXPECT_EQ(bitwise_left_shift(yes, yes).to_vector<bool>(), std::vector<bool>{false});
  EXPECT_EQ(gcd(yes, no).to_vector<bool>(), std::vector<bool>{true});
  EXPECT_EQ(lcm(yes, no).to_vector<bool>(), std::vector<bool>{false});
}

TEST(ActivationLayers, CallTheirOps) {
  const Tensor x = randn({3, 6});
  const auto expect = [&x](nn::Layer& layer, const Tensor& want, const std::string& kind) {
    EXPECT_EQ(read(layer(x)), read(want)) << kind;
    EXPECT_EQ(layer.kind(), kind);
    EXPECT_TRUE(layer.state_dict().empty()) << kind;
  };
  const auto plain = [&]<class L>(Tensor (*op)(const Tensor&, Loc), const std::string& kind) {
    L layer;
    expect(layer, op(x, Loc::current()), kind);
  };
  plain.operator()<nn::ReLU>(relu, "ReLU");
  plain.operator()<nn::ReLU6>(relu6, "ReLU6");
  plain.operator()<nn::SELU>(selu, "SELU");
  plain.operator()<nn::SiLU>(silu, "SiLU");
  plain.operator()<nn::Mish>(mish, "Mish");
  plain.operator()<nn::Sigmoid>(sigmoid, "Sigmoid");
  plain.operator()<nn::LogSigmoid>(log_sigmoid, "LogSigmoid");
  plain.operator()<nn::Tanh>(flame::tanh, "Tanh");
  plain.operator()<nn::Hardswish>(hardswish, "Hardswish");
  plain.operator()<nn::Hardsigmoid>(hardsigmoid, "Hardsigmoid");
  plain.operator()<nn::Softsign>(softsign, "Softsign");
  plain.operator()<nn::Tanhshrink>(tanhshrink, "Tanhshrink");
  const auto with = [&]<class L>(const typename L::Options& o, const Tensor& want, const std::string& kind) {
    L layer(o);
    expect(layer, want, kind);
  };
  with.operator()<nn::LeakyReLU>({.negative_slope = 0.2}, leaky_relu(x, 0.2), "LeakyReLU(0.2)");
  with.operator()<nn::ELU>({.alpha = 0.5}, elu(x, 0.5), "ELU(0.5)");
  with.operator()<nn::CELU>({.alpha = 0.5}, celu(x, 0.5), "CELU(0.5)");
  with.operator()<nn::GELU>({}, gelu(x), "GELU");
  with.operator()<nn::GELU>({.approximate = Approximate::tanh}, gelu_tanh(x), "GELU(tanh)");
  with.operator()<nn::Hardtanh>({.min = -0.5, .max = 2}, hardtanh(x, -0.5, 2), "Hardtanh(-0.5, 2)");
  with.operator()<nn::Softplus>({.beta = 2}, softplus(x, {.beta = 2}), "Softplus(2, 20)");
  with.operator()<nn::Softshrink>({.lambda = 0.2}, softshrink(x, 0.2), "Softshrink(0.2)");
  with.operator()<nn::Hardshrink>({.lambda = 0.2}, hardshrink(x, 0.2), "Hardshrink(0.2)");
  with.operator()<nn::Threshold>({.threshold = 0.1, .value = 7}, threshold(x, 0.1, 7), "Threshold(0.1, 7)");
  with.operator()<nn::GLU>({}, glu(x), "GLU(-1)");
  with.operator()<nn::SwiGLU>({}, swiglu(x), "SwiGLU(-1)");
  with.operator()<nn::GEGLU>({}, geglu(x), "GEGLU(-1)");
  with.operator()<nn::Softmax>({.axis = 0}, softmax(x, 0), "Softmax(0)");
  with.operator()<nn::LogSoftmax>({.axis = 1}, log_softmax(x, 1), "LogSoftmax(1)");
}

TEST(ActivationLayers, PReLUHasAWeight) {
  nn::Sequential net{{nn::layer<nn::PReLU>({.channels = 3}), nn::layer<nn::GELU>(), nn::layer<nn::PReLU>()}};
  const auto states = net.state_dict();
  ASSERT_EQ(states.size(), 2u);
  EXPECT_EQ(states[0].first, "0.weight");
  EXPECT_EQ(states[1].first, "2.weight");
  EXPECT_EQ(read(states[0].second), (Numbers{0.25, 0.25, 0.25}));
  EXPECT_EQ(net[0].kind(), "PReLU(3)");
  backward(sum(net(full({2, 3}, -1))));
  EXPECT_EQ(net.parameters()[0].grad().shape(), (Shape{3}));
  EXPECT_NE(read(net.parameters()[0].grad())[0], 0);
  EXPECT_MESSAGE(ValueError, nn::PReLU({.channels = 0}), "PReLU: expected channels of 1 or more, got 0");
  EXPECT_MESSAGE(DTypeError, nn::PReLU({.dtype = DType::i64}), "PReLU: expected a floating dtype, got int64");
}

}  // namespace
}  // namespace flame
