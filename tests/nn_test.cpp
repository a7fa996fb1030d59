// Modules: names, modes, loading with hints, the table; layers and initialisers.
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "flame/autograd/autograd.h"
#include "flame/device/cpu/cpu_device.h"
#include "flame/device/recorder.h"
#include "flame/nn/activation.h"
#include "flame/nn/basic.h"
#include "flame/nn/conv.h"
#include "flame/nn/init.h"
#include "flame/nn/linear.h"
#include "flame/nn/norm.h"
#include "flame/nn/resize.h"
#include "flame/nn/sequential.h"
#include "flame/ops/create.h"
#include "flame/ops/linear.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/random.h"
#include "trace_device.h"

namespace flame {
namespace {

struct Block : nn::Layer {
  Block(nn::Module& parent, std::string name, int64_t width)
      : Layer(parent, std::move(name)), fc(*this, "fc", {.in = width, .out = width}) {}
  nn::Linear fc;
  nn::Param gain{*this, "gain", ones({1})};
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override { return fc(x, loc); }
  std::string kind() const override { return "Block"; }
};

struct Net : nn::Module {
  nn::Conv2d conv1{*this, "conv1", {.in = 1, .out = 2, .kernel = 3, .padding = 1}};
  nn::BatchNorm2d norm{*this, "norm", {.channels = 2}};
  nn::Linear head{*this, "head", {.in = 32, .out = 10, .bias = false}};
  nn::ModuleList<Block> blocks{*this, "blocks"};
  Net() {
    blocks.add(4);
    blocks.add(4);
  }
  Tensor forward(const Tensor& x) { return head(norm(conv1(x)).flatten(1)); }
};

static_assert(!std::is_copy_constructible_v<Net> && !std::is_move_constructible_v<Net>);
static_assert(!std::is_copy_constructible_v<nn::Linear> && !std::is_move_constructible_v<nn::Linear>);

template <class T>
std::vector<std::string> names(const std::vector<std::pair<std::string, T>>& list) {
  std::vector<std::string> out;
  out.reserve(list.size());
  for (const auto& [name, value] : list) out.push_back(name);
  return out;
}
using Names = std::vector<std::string>;

template <class E, class F>
std::string message(F&& fn) {
  try {
    fn();
  } catch (const E& e) {
    const std::string text = e.what();
    return text.substr(0, text.rfind(" (at "));  // the place is the error's own line
  }
  return "nothing was thrown";
}

std::vector<float> floats(const State& s) { return s.tensor().detach().to(DType::f32).to_vector<float>(); }

TEST(Module, Names) {
  Net net;
  EXPECT_EQ(
      names(net.named_parameters()),
      (Names{"conv1.weight", "conv1.bias", "norm.weight", "norm.bias", "head.weight", "blocks.0.gain",
             "blocks.0.fc.weight", "blocks.0.fc.bias", "blocks.1.gain", "blocks.1.fc.weight", "blocks.1.fc.bias"}));
  EXPECT_EQ(names(net.named_buffers()), (Names{"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}));
  EXPECT_EQ(names(net.state_dict()),
            (Names{"conv1.weight", "conv1.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
                   "norm.num_batches_tracked", "head.weight", "blocks.0.gain", "blocks.0.fc.weight", "blocks.0.fc.bias",
                   "blocks.1.gain", "blocks.1.fc.weight", "blocks.1.fc.bias"}));
  EXPECT_EQ(names(net.named_modules()),
            (Names{"", "conv1", "norm", "head", "blocks", "blocks.0", "blocks.0.fc", "blocks.1", "blocks.1.fc"}));
  EXPECT_EQ(net.parameters().size(), 11u);
  EXPECT_EQ(net.parameters()[0].id(), net.conv1.weight.id());
  EXPECT_FALSE(net.head.bias.defined());
}

TEST(Module, RegistrationEnds) {
  struct Holder : nn::Module {
    std::optional<nn::Linear> extra;
  } holder;
  holder.extra.emplace(holder, "extra", nn::LinearOptions{.in = 2, .out = 2});
  EXPECT_EQ(names(holder.named_parameters()), (Names{"extra.weight", "extra.bias"}));
  holder.extra.reset();
  EXPECT_TRUE(holder.named_parameters().empty());
  auto parent = std::make_unique<nn::Module>();
  nn::Linear outlives{*parent, "child", {.in = 2, .out = 2}};
  parent.reset();
  EXPECT_EQ(names(outlives.named_parameters()), (Names{"weight", "bias"}));
  // A layer that could not be made leaves no name behind.
  EXPECT_EQ(message<ValueError>([&] { nn::Linear(holder, "bad", {.in = 0, .out = 2}); }),
            "Linear: expected in and out of 1 or more, got in 0 and out 2");
  EXPECT_EQ(holder.named_modules().size(), 1u);
}

TEST(Module, BadNames) {
  nn::Module m;
  nn::Linear a{m, "a", {.in = 1, .out = 1}};
  EXPECT_EQ(message<ValueError>([&] { nn::Linear(m, "a", {.in = 1, .out = 1}); }),
            "module: expected a new module name, got 'a', which is taken");
  EXPECT_EQ(message<ValueError>([&] { nn::Linear(m, "x.y", {.in = 1, .out = 1}); }),
            "module: expected a module name without dots, got 'x.y'");
  EXPECT_EQ(message<ValueError>([&] { nn::Param(m, "", ones({1})); }),
            "module: expected a parameter name without dots, got ''");
  EXPECT_EQ(message<ValueError>([&] { nn::Buffer(m, "a", ones({1})); }),
            "module: expected a new buffer name, got 'a', which is taken");
}

TEST(Module, Modes) {
  Net net;
  EXPECT_TRUE(net.is_training() && net.norm.is_training() && net.blocks[1].fc.is_training());
  net.eval();
  EXPECT_FALSE(net.is_training() || net.norm.is_training() || net.blocks[1].fc.is_training());
  net.blocks.add(4);
  EXPECT_FALSE(net.blocks[2].fc.is_training());
  net.blocks[0].train();
  EXPECT_TRUE(net.blocks[0].fc.is_training());
  EXPECT_FALSE(net.blocks[1].is_training());
}

TEST(Module, RecordedStepsAreGuardedByMode) {
  nn::Dropout dropout{{.p = 0.5}};
  const Tensor x = ones({4});
  Recorder rec;
  dropout(x);
  dropout(x);
  ASSERT_EQ(rec.guards.size(), 1u);
  EXPECT_TRUE(rec.guards[0].holds());
  dropout.eval();
  EXPECT_FALSE(rec.guards[0].holds());
  dropout.train();
  EXPECT_TRUE(rec.guards[0].holds());
}

TEST(Module, MovesToADevice) {
  Net net;
  net.conv1.weight.requires_grad_(false);
  const auto before = floats(net.head.weight);
  Device& other = test::logging_device();
  net.to(other);
  for (const auto& [name, s] : net.state_dict()) EXPECT_EQ(&s.device(), &other) << name;
  EXPECT_EQ(floats(net.head.weight), before);
  EXPECT_FALSE(net.conv1.weight.requires_grad());
  EXPECT_TRUE(net.head.weight.requires_grad());
  EXPECT_EQ(&net.forward(ones({1, 1, 4, 4}, DType::f32, other)).device(), &other);
}

TEST(Module, FreezeAndZeroGrad) {
  Net net;
  net.head.requires_grad_(false);
  EXPECT_FALSE(net.head.weight.requires_grad());
  EXPECT_TRUE(net.conv1.weight.requires_grad());
  net.head.requires_grad_(true);
  EXPECT_TRUE(net.head.weight.requires_grad());
  net.head.weight.set_grad(ones({10, 32}));
  net.zero_grad();
  EXPECT_FALSE(net.head.weight.grad().defined());
}

TEST(Module, Summary) {
  Net net;
  const std::string text = net.summary();
  std::vector<std::string> lines;
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    lines.push_back(text.substr(at, end - at));
  ASSERT_EQ(lines.size(), 1u + 3u + 2u * 2u + 1u) << text;
  for (const std::string& line : lines) EXPECT_EQ(line.size(), lines[0].size()) << text;
  EXPECT_EQ(lines[1], "conv1        Conv2d(1, 2, kernel 3, padding 1)  weight [2, 1, 3, 3], bias [2]     20");
  EXPECT_EQ(lines[3], "head         Linear(32, 10, no bias)            weight [10, 32]                  320");
  EXPECT_EQ(lines[4], "blocks.0     Block                              gain [1]                           1");
  EXPECT_EQ(lines.back(), "total                                                                            386");
  net.conv1.requires_grad_(false);
  EXPECT_NE(net.summary().find("366 trained"), std::string::npos);
  nn::Linear big{{.in = 1200, .out = 1000}};
  EXPECT_NE(big.summary().find("1,201,000\n"), std::string::npos) << big.summary();
}

TEST(LoadState, RoundTripInPlace) {
  Net a, b;
  nn::constant(a.norm.running_mean, 3);
  std::vector<const void*> addresses;
  for (const auto& [name, s] : b.state_dict()) addresses.push_back(s.tensor().data());
  const nn::LoadReport report = b.load_state(a.state_dict());
  EXPECT_TRUE(report.missing.empty() && report.unknown.empty());
  const auto sa = a.state_dict(), sb = b.state_dict();
  for (size_t i = 0; i < sa.size(); ++i) {
    EXPECT_EQ(floats(sa[i].second), floats(sb[i].second)) << sa[i].first;
    EXPECT_EQ(sb[i].second.tensor().data(), addresses[i]) << sa[i].first;
  }
  EXPECT_EQ(b.load_state(sb).missing.size(), 0u);  // from itself
  EXPECT_EQ(floats(sb[4].second), (std::vector<float>{3, 3}));
}

TEST(LoadState, CastsToTheModule) {
  nn::Linear fc{{.in = 2, .out = 1, .bias = false}};
  fc.load_state({{"weight", Tensor::from<double>({0.5, -2}, {1, 2})}});
  EXPECT_EQ(floats(fc.weight), (std::vector<float>{0.5, -2}));
  EXPECT_EQ(fc.weight.dtype(), DType::f32);
}

TEST(LoadState, StrictNamesWithHints) {
  nn::Sequential net{{nn::layer<nn::Linear>({.in = 2, .out = 3}), nn::layer<nn::ReLU>()}};
  const auto before = floats(net.parameters()[0]);
  EXPECT_EQ(message<ValueError>([&] {
              net.load_state({{"0.wieght", ones({3, 2})}, {"0.bias", ones({3})}});
            }),
            "load_state: expected the module's 2 names, got 1 missing and 1 unknown\n"
            "  missing '0.weight' [3, 2] (nearest given: '0.wieght' [3, 2])\n"
            "  unknown '0.wieght' [3, 2] (nearest in the module: '0.weight' [3, 2])");
  EXPECT_EQ(floats(net.parameters()[0]), before);
  EXPECT_NE(floats(net.parameters()[1]), (std::vector<float>{1, 1, 1}));
  EXPECT_EQ(message<ValueError>([&] {
              net.load_state({{"0.bias", ones({3})}, {"0.bias", ones({3})}});
            }),
            "load_state: expected each name once, got '0.bias' twice");
}

TEST(LoadState, LenientReportsWhatItSkipped) {
  nn::Linear fc{{.in = 2, .out = 3}};
  const auto before = floats(fc.weight);
  const nn::LoadReport report = fc.load_state({{"bias", ones({3})}, {"other", ones({7})}}, {.strict = false});
  EXPECT_EQ(report.missing, Names{"weight"});
  EXPECT_EQ(report.unknown, Names{"other"});
  EXPECT_EQ(floats(fc.weight), before);
  EXPECT_EQ(floats(fc.bias), (std::vector<float>{1, 1, 1}));
}

TEST(LoadState, FailureChangesNothing) {
  nn::Linear fc{{.in = 2, .out = 3}};
  const auto weight = floats(fc.weight), bias = floats(fc.bias);
  EXPECT_EQ(message<ShapeError>([&] {
              fc.load_state({{"weight", ones({3, 2})}, {"bias", ones({4})}});
            }),
            "load_state: 'bias' expected shape [3], got [4]");
  EXPECT_EQ(floats(fc.weight), weight);
  // Every allocation of a load that needs casts, while the old values are held, fails in turn.
  int failures = 0;
  for (int64_t n = 1; n < 50; ++n) {
    const Tensor held = fc.weight.tensor().detach(), other = fc.bias.tensor().detach();
    const Tensor w = ones({3, 2}, DType::f64), b = ones({3}, DType::f64);
    fail_allocation(n);
    try {
      fc.load_state({{"weight", w}, {"bias", b}});
    } catch (const OutOfMemory&) {
      fail_allocation(0);
      ++failures;
      EXPECT_EQ(floats(fc.weight), weight);
      EXPECT_EQ(floats(fc.bias), bias);
      continue;
    }
    fail_allocation(0);
    EXPECT_EQ(held.to_vector<float>(), weight);
    break;
  }
  EXPECT_GE(failures, 3);
  EXPECT_EQ(floats(fc.bias), (std::vector<float>{1, 1, 1}));
}

TEST(Layers, SequentialRunsInOrder) {
  nn::Sequential net{{nn::layer<nn::Linear>({.in = 4, .out = 3}), nn::layer<nn::ReLU>(), nn::layer<nn::Flatten>(),
                      [](const Tensor& x) { return x.sum(1); }}};
  net.add("last", nn::layer<nn::Dropout>({.p = 0.5}));
  EXPECT_EQ(net.size(), 5u);
  EXPECT_EQ(names(net.named_modules()), (Names{"", "0", "1", "2", "3", "last"}));
  net.eval();
  net.load_state({{"0.weight", Tensor::from<float>({1, 0, 0, 0, 0, 1, 0, 0, 0, 0, -1, 0}, {3, 4})},
                  {"0.bias", Tensor::from<float>({0, 0.5, 0}, {3})}});
  const Tensor y = net(Tensor::from<float>({1, 2, 3, 4, -1, -2, -3, -4}, {2, 4}));
  EXPECT_EQ(y.detach().to_vector<float>(), (std::vector<float>{3.5, 3}));
  EXPECT_EQ(net[1].kind(), "ReLU");
  EXPECT_EQ(message<IndexError>([&] { net[9]; }), "Sequential: expected a step below 5, got 9");
}

TEST(Layers, ForwardAndGradientsOfANet) {
  Net net;
  const Tensor y = net.forward(ones({3, 1, 4, 4}));
  EXPECT_EQ(y.shape(), (Shape{3, 10}));
  backward(y.sum());
  EXPECT_EQ(net.conv1.weight.grad().shape(), (Shape{2, 1, 3, 3}));
  EXPECT_EQ(net.head.weight.grad().shape(), (Shape{10, 32}));
  EXPECT_FALSE(net.blocks[0].fc.weight.grad().defined());
}

TEST(Layers, ConvolutionAndPooling) {
  nn::Conv2d conv{{.in = 2, .out = 2, .kernel = 2, .stride = 2, .groups = 2}};
  EXPECT_EQ(conv.weight.shape(), (Shape{2, 1, 2, 2}));
  EXPECT_EQ(conv.kind(), "Conv2d(2, 2, kernel 2, stride 2, groups 2)");
  nn::constant(conv.weight, 1);
  nn::constant(conv.bias, 0.5);
  const Tensor y = conv(arange(0, 32, 1, DType::f32).reshape({1, 2, 4, 4}));
  EXPECT_EQ(y.detach().to_vector<float>(), (std::vector<float>{10.5, 18.5, 42.5, 50.5, 74.5, 82.5, 106.5, 114.5}));
  nn::MaxPool2d pool{{.kernel = 2}};
  EXPECT_EQ(pool(y).detach().to_vector<float>(), (std::vector<float>{50.5, 114.5}));
}

TEST(Layers, NormsFollowTheirMode) {
  nn::BatchNorm2d norm{{.channels = 2}};
  const Tensor x =
      Tensor::from<float>({1, 3, 10, 30}, {2, 2, 1, 1}).permute({1, 0, 2, 3});  // channels (1, 3) and (10, 30)
  const auto trained = norm(x).detach().to_vector<float>();
  EXPECT_NEAR(trained[0], -1, 1e-4);
  EXPECT_NEAR(trained[3], 1, 1e-4);
  EXPECT_NEAR(floats(norm.running_mean)[0], 0.2f, 1e-6);
  norm.eval();
  const auto mean = floats(norm.running_mean), var = floats(norm.running_var);
  EXPECT_NEAR(norm(x).detach().to_vector<float>()[0], (1 - mean[0]) / std::sqrt(var[0] + 1e-5), 1e-5);
  EXPECT_EQ(floats(norm.running_mean), mean);
  EXPECT_EQ(message<ShapeError>([&] { norm(ones({2, 2})); }), "BatchNorm2d: expected [N, 2, H, W], got shape [2, 2]");
  nn::LayerNorm layer{{.normalized = {2}}};
  EXPECT_NEAR(layer(Tensor::from<float>({1, 3}, {1, 2})).detach().to_vector<float>()[1], 1, 1e-4);
  EXPECT_EQ(layer.kind(), "LayerNorm([2])");
}

TEST(Layers, ErrorsNameTheCallersLine) {
  nn::Linear fc{{.in = 4, .out = 3}};
  try {
    fc(ones({2, 5}));
    FAIL();
  } catch (const ShapeError& e) {
    EXPECT_EQ(e.where().line(), static_cast<uint32_t>(__LINE__ - 3));
    EXPECT_NE(std::string(e.where().file_name()).find("nn_test.cpp"), std::string::npos);
  }
  EXPECT_EQ(message<ValueError>([] { nn::Conv2d c({.in = 3, .out = 4, .kernel = 3, .groups = 2}); }),
            "Conv2d: expected channels that 2 groups divide, got in 3 and out 4");
  EXPECT_EQ(message<ValueError>([] { nn::Dropout d({.p = 1.5}); }), "Dropout: expected p in [0, 1], got 1.5");
}

struct Moments {
  double mean, deviation, low, high;
};
Moments moments(const State& s) {
  const auto v = floats(s);
  double sum = 0, squares = 0;
  for (const double x : v) sum += x, squares += x * x;
  const double n = static_cast<double>(v.size()), mean = sum / n;
  return {mean, std::sqrt(squares / n - mean * mean), *std::min_element(v.begin(), v.end()),
          *std::max_element(v.begin(), v.end())};
}

TEST(Init, DefaultsArePyTorchs) {
  manual_seed(1);
  nn::Linear fc{{.in = 100, .out = 400}};
  const Moments w = moments(fc.weight), b = moments(fc.bias);
  EXPECT_NEAR(w.high, 0.1, 1e-4);  // 1 / sqrt(100)
  EXPECT_NEAR(w.low, -0.1, 1e-4);
  EXPECT_NEAR(w.deviation, 0.1 / std::sqrt(3.0), 5e-4);
  EXPECT_NEAR(b.high, 0.1, 2e-3);
  EXPECT_LE(b.high, 0.1);
  nn::Conv2d conv{{.in = 32, .out = 64, .kernel = 5, .groups = 2}};
  EXPECT_NEAR(moments(conv.weight).high, 1 / std::sqrt(16.0 * 25), 1e-4);
  EXPECT_LE(moments(conv.bias).high, 1 / std::sqrt(16.0 * 25));
  manual_seed(1);
  nn::Linear same{{.in = 100, .out = 400}};
  EXPECT_EQ(floats(fc.weight), floats(same.weight));
}

TEST(Init, Functions) {
  manual_seed(2);
  const Parameter p(zeros({300, 100, 2, 1}));  // fan_in 200, fan_out 600
  nn::kaiming_uniform(p);
  EXPECT_NEAR(moments(p).high, std::sqrt(2.0) * std::sqrt(3.0 / 200), 1e-4);
  nn::kaiming_normal(p, {.fan = nn::Fan::out, .gain = nn::gain(nn::Nonlinearity::tanh)});
  EXPECT_NEAR(moments(p).deviation, 5.0 / 3 / std::sqrt(600.0), 1e-3);
  EXPECT_NEAR(moments(p).mean, 0, 1e-3);
  nn::xavier_uniform(p, 2);
  EXPECT_NEAR(moments(p).high, 2 * std::sqrt(6.0 / 800), 1e-4);
  nn::xavier_normal(p);
  EXPECT_NEAR(moments(p).deviation, std::sqrt(2.0 / 800), 1e-3);
  nn::uniform(p, 2, 3);
  EXPECT_NEAR(moments(p).mean, 2.5, 1e-2);
  nn::normal(p, -1, 0.5);
  EXPECT_NEAR(moments(p).mean, -1, 1e-2);
  EXPECT_NEAR(moments(p).deviation, 0.5, 1e-2);
  nn::constant(p, 0.25);
  EXPECT_EQ(moments(p).low, 0.25);
  const Parameter half(zeros({64, 64}, DType::bf16));
  nn::xavier_uniform(half);
  EXPECT_EQ(half.dtype(), DType::bf16);
  EXPECT_EQ(message<ShapeError>([] { nn::xavier_uniform(Parameter(zeros({3}))); }),
            "init: fans need a weight of rank 2 or more, got shape [3]");
}

TEST(LinearLayer, ActivatesIfAsked) {
  nn::Linear layer({.in = 3, .out = 4, .activation = Activation::gelu_tanh});
  const Tensor x = randn({5, 3}), sum = linear(x, layer.weight.tensor(), layer.bias.tensor());
  EXPECT_EQ(layer(x).to_vector<float>(), gelu_tanh(sum).to_vector<float>());
  EXPECT_EQ(layer.kind(), "Linear(3, 4, gelu_tanh)");
}

}  // namespace
}  // namespace flame
