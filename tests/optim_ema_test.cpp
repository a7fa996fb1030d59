// Averages of weights: PyTorch's numbers, warm-up, buffers, swapping, saving, recording, and steps that fail.
#include <gtest/gtest.h>

#include "flame/device/cpu/cpu_device.h"
#include "tests/support/error.h"
#include "tests/support/optim_cases.h"

namespace flame {
namespace {

using namespace test;
using optim::EMA;

struct Net : nn::Module {
  nn::Param a, b, c;
  nn::Buffer mean, count;
  explicit Net(DType t = DType::f32)
      : a(*this, "a", optim_start(0, t)),
        b(*this, "b", optim_start(1, t)),
        c(*this, "c", optim_start(2, t)),
        mean(*this, "mean", ones({3}, t)),
        count(*this, "count", full({}, int64_t{1} << 40, DType::i64)) {}
};
std::vector<std::vector<unsigned char>> bytes_of(const EMA& ema) {
  std::vector<std::vector<unsigned char>> out;
  for (const auto& [name, t] : ema.state_dict()) out.push_back(bytes(t));
  return out;
}
std::vector<std::vector<unsigned char>> bytes_of(const nn::Module& m) {
  std::vector<std::vector<unsigned char>> out;
  for (const auto& [name, s] : m.state_dict()) out.push_back(bytes(s.tensor()));
  return out;
}
Tensor entry(const EMA& ema, const std::string& name) {
  for (const auto& [n, t] : ema.state_dict())
    if (n == name) return t;
  ADD_FAILURE() << name;
  return {};
}

TEST(EMA, GoldenNumbers) {
  for (const DType t : {DType::f32, DType::f64}) {
    Net net(t);
    optim::SGD opt(net.parameters(), {.lr = 0.1});
    EMA ema(net, {.decay = 0.9});
    for (size_t step = 0; step < 20; ++step) {
      set_gradients(net.parameters(), step);
      opt.step();
      ema.update();
    }
    EXPECT_EQ(ema.updates(), 20);
    const auto& golden = optim_golden()["average"];
    const auto exact = golden["float64"].get<std::vector<double>>();
    std::vector<double> got;
    for (const char* name : {"a", "b", "c"})
      for (double v : numbers(entry(ema, name))) got.push_back(v);
    const double torch = error_of(golden["float32"].get<std::vector<double>>(), exact, DType::f32).units;
    const double flame = error_of(got, exact, t).units;
    EXPECT_LE(flame, std::max(2 * torch, 1.0)) << name_of(t);
    std::printf("  average, %s: %.2f roundings (PyTorch's float32: %.2f)\n", std::string(name_of(t)).c_str(), flame,
                torch);
  }
}

TEST(EMA, WarmsUp) {
  Net net;
  EMA ema(net, {.decay = 0.25, .warmup = true});
  double expected = numbers(net.a.tensor())[0];
  for (int n = 0; n < 6; ++n) {
    net.a.assign(full({5}, n));
    ema.update();
    const double decay = std::min(0.25, (1.0 + n) / (10.0 + n));
    expected = decay * expected + (1 - decay) * n;
    EXPECT_NEAR(numbers(entry(ema, "a"))[0], expected, 1e-6) << n;
  }
}

TEST(EMA, BuffersFollowOrAreAveraged) {
  for (const bool averaged : {false, true}) {
    Net net;
    EMA ema(net, {.decay = 0.5, .buffers = averaged});
    net.mean.assign(full({3}, 3));
    net.count.assign(full({}, (int64_t{1} << 40) + 1, DType::i64));
    ema.update();
    EXPECT_EQ(numbers(entry(ema, "mean"))[0], averaged ? 2 : 3);
    EXPECT_EQ(entry(ema, "count").item<int64_t>(), (int64_t{1} << 40) + 1);
  }
}

TEST(EMA, AveragesSixteenBitsInFloat) {
  Net net(DType::bf16);
  EMA ema(net, {.decay = 0.999});
  net.a.assign(ones({5}, DType::bf16));
  for (int i = 0; i < 100; ++i) ema.update();  // each change is below bfloat16's rounding
  EXPECT_EQ(entry(ema, "a").dtype(), DType::f32);
  const double start = numbers(optim_start(0, DType::bf16))[0];
  EXPECT_NEAR(numbers(entry(ema, "a"))[0], 1 - (1 - start) * std::pow(0.999, 100), 1e-5);
}

TEST(EMA, UpdatesInOneLaunchForFloats) {
  struct Floats : nn::Module {
    nn::Param a{*this, "a", ones({4})}, b{*this, "b", ones({2, 2})};
  } net;
  EMA ema(net);
  ema.update();
  const Stats before = stats();
  ema.update();
  EXPECT_EQ(stats().launches - before.launches, 1u);
  EXPECT_EQ(stats().host_copies, before.host_copies);
}

TEST(EMA, SwapsInAndOut) {
  Net net, other;
  EMA ema(net, {.decay = 0.5});
  const auto averages = bytes_of(net);
  for (const Parameter& p : net.parameters()) p.assign(p.tensor().detach() * 2);
  const auto own = bytes_of(net);
  const void* home = net.a.tensor().data();
  ema.swap_in();
  EXPECT_EQ(bytes_of(net), averages);
  EXPECT_EQ(net.a.tensor().data(), home);
  EXPECT_THROW(ema.update(), ValueError);
  EXPECT_THROW(ema.swap_in(), ValueError);
  ema.swap_out();
  EXPECT_EQ(bytes_of(net), own);
  EXPECT_EQ(net.a.tensor().data(), home);
  EXPECT_THROW(ema.swap_out(), ValueError);
  ema.update();
  ema.copy_to(other);
  EXPECT_EQ(numbers(other.b.tensor()), numbers(optim_start(1, DType::f32) * 1.5));
}

TEST(EMA, ReplaysBitForBitAndResumes) {
  Net eager, recorded;
  optim::SGD a(eager.parameters(), {.lr = 0.1}), b(recorded.parameters(), {.lr = 0.1});
  EMA x(eager, {.decay = 0.9, .warmup = true}), y(recorded, {.decay = 0.9, .warmup = true});
  const auto step = [](Net& net, optim::SGD& opt, EMA& ema, const Tensor& in) {
    Tensor loss = sum(square(net.a.tensor() * in)) + sum(net.b.tensor() * sum(in)) + sum(net.c.tensor());
    backward(loss);
    opt.step();
    ema.update();
    return loss;
  };
  auto replayed = record([&](const Tensor& in) { return step(recorded, b, y, in); });
  nn::NamedTensors saved, weights;
  for (size_t i = 0; i < 8; ++i) {
    if (i == 5) {
      saved = x.state_dict();
      for (const auto& [name, s] : eager.state_dict()) weights.emplace_back(name, s.tensor());
    }
    const Tensor in = optim_gradient(0, i, DType::f32);
    step(eager, a, x, in);
    replayed(in);
    ASSERT_EQ(bytes_of(x), bytes_of(y)) << i;
  }
  EXPECT_EQ(replayed.stats().replays, 6u) << replayed.stats().last_miss;

  Net resumed;
  resumed.load_state(weights);
  optim::SGD c(resumed.parameters(), {.lr = 0.1});
  EMA z(resumed, {.decay = 0.9, .warmup = true});
  z.load_state(saved);
  for (size_t i = 5; i < 8; ++i) step(resumed, c, z, optim_gradient(0, i, DType::f32));
  EXPECT_EQ(bytes_of(z), bytes_of(x));
}

TEST(EMA, AFailedUpdateOrSwapChangesNothing) {
  Net net;
  EMA ema(net, {.decay = 0.9});
  for (const Parameter& p : net.parameters()) p.assign(p.tensor().detach() * 2);
  const auto averages = bytes_of(ema), weights = bytes_of(net);
  const auto expect_failures = [&](const std::function<void()>& fn) {
    int failures = 0;
    for (int64_t n = 1; n < 100; ++n) {
      const auto held = ema.state_dict();
      const Tensor other = net.a.tensor();
      fail_allocation(n);
      bool refused = false;
      try {
        fn();
      } catch (const OutOfMemory&) { refused = true; }
      fail_allocation(0);
      if (!refused) break;
      ++failures;
      ASSERT_EQ(bytes_of(ema), averages) << n;
      ASSERT_EQ(bytes_of(net), weights) << n;
    }
    EXPECT_GE(failures, 1);
  };
  expect_failures([&] { ema.swap_in(); });
  ema.swap_out();
  expect_failures([&] { ema.update(); });
  EXPECT_NE(bytes_of(ema), averages);
}

TEST(EMA, Errors) {
  Net net;
  struct Nothing : nn::Module {
  } nothing;
  EXPECT_NE(message_of<ValueError>([&] { EMA(net, {.decay = 1.5}); }).find("EMA: expected a decay in [0, 1], got 1.5"),
            std::string::npos);
  EXPECT_THROW(EMA(net, {.decay = NAN}), ValueError);
  EXPECT_NE(message_of<ValueError>([&] { EMA e(nothing); }).find("a module with parameters, got none"),
            std::string::npos);
  EMA ema(net);
  const auto good = ema.state_dict();
  const auto before = bytes_of(ema);
  const auto with = [&](size_t i, const Tensor& t) {
    auto out = good;
    out[i].second = t;
    return out;
  };
  EXPECT_NE(message_of<ShapeError>([&] { ema.load_state(with(0, zeros({4}))); }).find("'a' of shape [5], got [4]"),
            std::string::npos);
  EXPECT_THROW(ema.load_state(with(0, zeros({5}, DType::f64))), DTypeError);
  EXPECT_THROW(ema.load_state(with(good.size() - 1, full({1}, -1, DType::i64))), ValueError);
  auto more = good, fewer = good;
  more.emplace_back("d", zeros({1}));
  fewer.erase(fewer.begin());
  EXPECT_THROW(ema.load_state(more), ValueError);
  EXPECT_THROW(ema.load_state(fewer), ValueError);
  more.back().first = "a";
  EXPECT_THROW(ema.load_state(more), ValueError);
  EXPECT_EQ(bytes_of(ema), before);
}

}  // namespace
}  // namespace flame
