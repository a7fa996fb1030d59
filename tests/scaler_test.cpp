// Loss scaling on the device: steps with it equal steps without it bit for bit, skipped ones change nothing, the scale moves as
// PyTorch's, and recordings go with it.
#include <gtest/gtest.h>

#include <cmath>

#include "flame/autograd/autocast.h"
#include "flame/device/planted.h"
#include "tests/support/cuda_support.h"
#include "tests/support/error.h"
#include "tests/support/optim_cases.h"

namespace flame {
namespace {

using namespace test;
constexpr double inf = std::numeric_limits<double>::infinity();

std::vector<std::vector<unsigned char>> state_of(const Parameters& params, const optim::Optimizer& opt) {
  std::vector<std::vector<unsigned char>> out;
  for (const Parameter& p : params) out.push_back(bytes(p.tensor()));
  for (const auto& [name, t] : opt.state_dict()) out.push_back(bytes(t));
  return out;
}
Parameters starts(Device& d) {
  Parameters out;
  for (size_t k = 0; k < optim_shapes.size(); ++k) out.emplace_back(optim_start(k, DType::f32).to(d));
  return out;
}
void give(const Parameters& params, size_t step, double scale, bool broken = false) {
  for (size_t k = 0; k < params.size(); ++k) {
    Tensor g = optim_gradient(k, step, DType::f32) * scale;
    if (broken && k == 1) g = g.set({1, 2}, step % 2 ? inf : std::nan(""));
    params[k].set_grad(g.to(params[k].device()));
  }
}

// Every optimizer: with a scale, and with a step in between that is skipped, against plain steps. On a device the numbers of a
// step after a skipped one are its own, so they may be a rounding off.
void expect_equal_to_plain(Device& d, bool bits) {
  for (const OptimCase& c : optim_cases()) {
    SCOPED_TRACE(c.name);
    const Parameters plain = starts(d), scaled = starts(d);
    optim::Optimizer a = c.make(plain), b = c.make(scaled);
    optim::GradScaler scaler({.init_scale = 1024, .growth_interval = 3}, d);
    double scale = 1024;
    size_t good = 0;
    for (size_t step = 0; step < 9; ++step) {
      const bool broken = step == 3 || step == 4;
      const double clip = step > 5 ? 0.25 : 0;
      give(scaled, step, scale, broken);
      const auto before = state_of(scaled, b);
      const Tensor norm = b.step({.max_norm = clip, .scaler = &scaler});
      scaler.update();
      if (broken) {
        EXPECT_EQ(state_of(scaled, b)[0], before[0]);
        const auto after = state_of(scaled, b);
        for (size_t i = 0; i < before.size(); ++i)
          if (i != 3) {  // whose first number counts the calls
            EXPECT_EQ(after[i], before[i]) << i;
          }
        EXPECT_FALSE(std::isfinite(norm.item()));
        scale /= 2;
        good = 0;
      } else {
        give(plain, step, 1);
        const Tensor want = a.step({.max_norm = clip});
        if (clip > 0) { EXPECT_EQ(bytes(norm), bytes(want)); }
        if (++good == 3) {
          scale *= 2;
          good = 0;
        }
      }
      EXPECT_EQ(scaler.value(), scale);
      for (size_t k = 0; k < plain.size(); ++k) {
        const std::vector<double> x = numbers(plain[k].tensor()), y = numbers(scaled[k].tensor());
        if (bits || step < 3) {
          ASSERT_EQ(x, y) << "step " << step;
        } else {
          for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], 1e-6 * std::max(1.0, std::abs(x[i])));
        }
      }
    }
    // What is saved says which steps were taken.
    const auto x = a.state_dict(), y = b.state_dict();
    std::vector<int64_t> taken = y[0].second.to_vector<int64_t>();
    EXPECT_EQ(taken[0], 9);
    taken[0] = 7;
    EXPECT_EQ(taken, x[0].second.to_vector<int64_t>());
    // And goes on from there.
    const Parameters again = starts(d);
    for (size_t k = 0; k < again.size(); ++k) again[k].assign(scaled[k].tensor().detach());
    optim::Optimizer e = c.make(again);
    e.load_state(y);
    give(scaled, 9, 1);
    give(again, 9, 1);
    b.load_state(y);
    b.step();
    e.step();
    EXPECT_EQ(state_of(scaled, b), state_of(again, e));
  }
}
TEST(GradScaler, StepsEqualPlainOnes) { expect_equal_to_plain(cpu(), true); }
TEST(CudaOptim, ScaledStepsEqualPlainOnes) {
  FLAME_NEEDS_GPU(d);
  expect_equal_to_plain(d, false);
}

// torch.amp.GradScaler(init_scale=8, growth_factor=3, backoff_factor=0.25, growth_interval=2), _amp_update_scale_ called
// with these findings.
TEST(GradScaler, TheScaleMovesAsPyTorchs) {
  const bool found[] = {false, false, true, false, true, true, false, false, false, false};
  const double want[] = {8, 24, 6, 6, 1.5, 0.375, 0.375, 1.125, 1.125, 3.375};
  optim::GradScaler scaler({.init_scale = 8, .growth_factor = 3, .backoff_factor = 0.25, .growth_interval = 2});
  for (size_t i = 0; i < std::size(found); ++i) {
    scaler.found(full({}, found[i] ? std::nan("") : 1.0, DType::f64));
    if (i == 4) scaler.found(full({}, 1.0, DType::f64));  // one of two optimizers is enough
    scaler.update();
    EXPECT_EQ(scaler.value(), want[i]) << i;
    if (i == 6) {
      optim::GradScaler other({.init_scale = 2});
      other.load_state(scaler.state_dict());
      EXPECT_EQ(other.value(), want[6]);
      EXPECT_EQ(other.state_dict()[1].second.item(), 1);
    }
  }
  // It never grows to infinity.
  optim::GradScaler large({.init_scale = 0x1p127, .growth_interval = 1});
  large.found(full({}, 1.0, DType::f64));
  large.update();
  EXPECT_EQ(large.value(), 0x1p127);
}

struct Net : nn::Module {
  nn::Linear a{*this, "a", {.in = 6, .out = 16}}, b{*this, "b", {.in = 16, .out = 3}};
  Tensor forward(const Tensor& x) { return b(gelu(a(x))); }
};
struct Trained {
  Generator generator{3};
  std::unique_ptr<Net> net;
  std::unique_ptr<optim::AdamW> opt;
  optim::GradScaler scaler;
  explicit Trained(Device& d) : scaler({.init_scale = 0x1p17, .growth_interval = 4}, d) {
    const GeneratorScope numbers(generator);
    const DeviceScope on(d);
    net = std::make_unique<Net>();
    opt = std::make_unique<optim::AdamW>(net->parameters(), optim::AdamWOptions{.lr = 0.02});
  }
  Tensor step(const Tensor& x, const Tensor& y) {
    const Tensor loss = autocast(DType::f16, [&] { return cross_entropy(net->forward(x), y); });
    backward(scaler.scale(loss));
    opt->step({.max_norm = 1, .scaler = &scaler});
    scaler.update();
    return loss;
  }
  std::vector<std::vector<unsigned char>> state() const {
    auto out = state_of(net->parameters(), *opt);
    for (const auto& [name, t] : scaler.state_dict()) out.push_back(bytes(t));
    return out;
  }
};

// A batch that overflows float16 now and then, so that steps are skipped while recorded.
void expect_recorded_equals_eager(Device& d) {
  Trained eager(d), recorded(d);
  auto step = record([&](const Tensor& x, const Tensor& y) { return recorded.step(x, y); });
  double least = inf, most = 0;
  for (int i = 0; i < 30; ++i) {
    Generator g(static_cast<uint64_t>(i));
    const Tensor x = (normal({8, 6}, 0, i % 7 == 5 ? 3e4 : 1, {.device = &cpu(), .generator = &g})).to(d);
    const Tensor y = randint(0, 3, {8}, {.device = &cpu(), .generator = &g}).to(d);
    ASSERT_EQ(bytes(eager.step(x, y)), bytes(step(x, y))) << i;
    ASSERT_EQ(eager.state(), recorded.state()) << i;
    least = std::min(least, eager.scaler.value());
    most = std::max(most, eager.scaler.value());
  }
  EXPECT_EQ(step.stats().replays, 28u) << step.stats().last_miss;
  EXPECT_LT(least, most);
  const std::vector<int64_t> taken = eager.opt->state_dict()[0].second.to_vector<int64_t>();
  EXPECT_LT(taken[1], 30);
  EXPECT_GT(taken[1], 15);
  std::printf("  %lld of 30 steps taken, scales from %g to %g\n", static_cast<long long>(taken[1]), least, most);
}
TEST(GradScaler, RecordedStepsEqualEagerOnes) { expect_recorded_equals_eager(cpu()); }
TEST(CudaOptim, RecordedScaledStepsEqualEagerOnes) {
  FLAME_NEEDS_GPU(d);
  expect_recorded_equals_eager(d);
}

// What float16 loses without a scale is kept with it.
TEST(GradScaler, SmallGradientsSurvive) {
  const auto norm = [](bool scaled) {
    const Parameter w(full({4, 4}, 0.5, DType::f32));
    optim::SGD sgd({w}, {.lr = 0});
    optim::GradScaler scaler;
    const Tensor x = full({2, 4}, 1e-4, DType::f32);
    const Tensor loss = sum(autocast(DType::f16, [&] { return matmul(x, w); }).to(DType::f32) * 1e-5);
    backward(scaled ? scaler.scale(loss) : loss);
    return sgd.step({.max_norm = 1, .scaler = scaled ? &scaler : nullptr}).item();
  };
  EXPECT_EQ(norm(false), 0);
  EXPECT_NEAR(norm(true), 4 * 2e-9, 1e-10);
}

TEST(GradScaler, ReadsNothingOnTheHost) {
  Trained t(cpu());
  const Tensor x = uniform({8, 6}, -1, 1), y = randint(0, 3, {8});
  t.step(x, y);
  const Stats before = stats();
  for (int i = 0; i < 5; ++i) t.step(x, y);
  EXPECT_EQ(stats().host_copies, before.host_copies);
}

TEST(GradScaler, NoMemoryLeavesAStepAsItWas) {
  Trained calm(cpu()), shaken(cpu());
  const Tensor x = uniform({8, 6}, -1, 1), y = randint(0, 3, {8});
  calm.step(x, y);
  const auto before = shaken.state();
  int failures = 0;
  for (int64_t n = 1; n < 1000; ++n) {
    bool refused = false;
    fail_allocation(n);
    try {
      attempt([&] {
        const Tensor loss = autocast(DType::f16, [&] { return cross_entropy(shaken.net->forward(x), y); });
        backward(shaken.scaler.scale(loss));
        shaken.opt->step({.max_norm = 1, .scaler = &shaken.scaler});
      });
    } catch (const OutOfMemory&) { refused = true; }
    fail_allocation(0);
    if (!refused) break;
    ++failures;
    ASSERT_EQ(shaken.state(), before) << n;
  }
  shaken.scaler.update();
  EXPECT_GT(failures, 20);
  EXPECT_EQ(shaken.state(), calm.state());
}

TEST(GradScaler, Errors) {
  EXPECT_THROW(optim::GradScaler({.init_scale = 0}), ValueError);
  EXPECT_THROW(optim::GradScaler({.init_scale = inf}), ValueError);
  EXPECT_THROW(optim::GradScaler({.growth_factor = 1}), ValueError);
  EXPECT_THROW(optim::GradScaler({.backoff_factor = 1}), ValueError);
  EXPECT_THROW(optim::GradScaler({.growth_interval = 0}), ValueError);
  optim::GradScaler scaler;
  EXPECT_THROW(scaler.update(), ValueError);
  auto entries = scaler.state_dict();
  entries[0].second = full({}, 0.0, DType::f32);
  EXPECT_THROW(scaler.load_state(entries), ValueError);
  entries[0].second = full({2}, 1.0, DType::f32);
  EXPECT_THROW(scaler.load_state(entries), ShapeError);
  entries[0].second = full({}, 1.0, DType::f64);
  EXPECT_THROW(scaler.load_state(entries), DTypeError);
  entries.pop_back();
  entries[0].second = full({}, 4.0, DType::f32);
  EXPECT_THROW(scaler.load_state(entries), ValueError);
  entries.emplace_back("other", full({}, 4.0, DType::f32));
  EXPECT_THROW(scaler.load_state(entries), ValueError);
  EXPECT_EQ(scaler.value(), 65536);
  const Parameter w(full({2}, 1.0, DType::f16));
  optim::SGD sgd({w}, {.lr = 1});
  w.set_grad(full({2}, 1.0, DType::f16));
  EXPECT_THROW(sgd.step({.scaler = &scaler}), DTypeError);
  EXPECT_EQ(w.tensor().to(DType::f32).to_vector<float>(), (std::vector<float>{1, 1}));
}

}  // namespace
}  // namespace flame
