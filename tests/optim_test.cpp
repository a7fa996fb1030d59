// The promises of an optimizer's step: one launch, nothing changed on failure, bit-exact resume, fresh numbers in a replay;
// clipping.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "flame/autograd/autograd.h"
#include "flame/device/cpu/cpu_device.h"
#include "flame/device/recorder.h"
#include "flame/nn/activation.h"
#include "flame/nn/basic.h"
#include "flame/nn/linear.h"
#include "flame/nn/sequential.h"
#include "flame/ops/create.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/random.h"
#include "flame/optim/adamw.h"
#include "flame/optim/clip.h"
#include "flame/optim/sgd.h"
#include "flame/train/record.h"
#include "tests/support/optim_formulas.h"

namespace flame {
namespace {

using namespace test;
using optim::Adam;
using optim::AdamW;
using optim::Optimizer;
using optim::SGD;

TEST(Optim, SixteenBitParametersKeepFloatMoments) {
  for (const DType t : {DType::bf16, DType::f16}) {
    const std::vector<Parameter> params = starts(t);
    AdamW opt(params, {.lr = 1e-2});
    // The reference works on float32 parameters that are rounded after every step.
    const std::vector<Parameter> reference = starts(DType::f32);
    AdamW exact(reference, {.lr = 1e-2});
    for (size_t step = 0; step < 5; ++step) {
      set_gradients(params, step, t);
      set_gradients(reference, step, DType::f32);
      opt.step();
      exact.step();
      for (const Parameter& p : reference) p.assign(p.tensor().detach().to(t).to(DType::f32));
    }
    EXPECT_EQ(values(params), values(reference));
    for (const auto& [name, tensor] : opt.state_dict())
      if (name.find("exp_avg") != std::string::npos) { EXPECT_EQ(tensor.dtype(), DType::f32) << name; }
  }
}

TEST(Optim, StepIsOneLaunchAndDropsGradients) {
  const std::vector<Parameter> params = starts(DType::f32);
  AdamW opt(params);
  set_gradients(params, 0, DType::f32);
  opt.step();
  set_gradients(params, 1, DType::f32);
  std::vector<const void*> addresses;
  addresses.reserve(params.size());
  for (const Parameter& p : params) addresses.push_back(p.tensor().data());
  const Stats before = stats();
  opt.step();
  EXPECT_EQ(stats().launches - before.launches, 1u);
  EXPECT_EQ(stats().plans_prepared, before.plans_prepared);
  for (size_t k = 0; k < params.size(); ++k) {
    EXPECT_FALSE(params[k].grad().defined());
    EXPECT_EQ(params[k].tensor().data(), addresses[k]);
  }
  set_gradients(params, 2, DType::f32);
  opt.step({.keep_gradients = true});
  for (const Parameter& p : params) EXPECT_TRUE(p.grad().defined());
  opt.zero_grad();
  for (const Parameter& p : params) EXPECT_FALSE(p.grad().defined());
}

TEST(Optim, GradientsOfAnyLayout) {
  Parameter a(Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3})), b(Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3}));
  SGD one({a}, {.lr = 1}), other({b}, {.lr = 1});
  a.set_grad(Tensor::from<float>({1, 0, 0, 2, 0, 3}, {3, 2}).t());
  b.set_grad(Tensor::from<float>({1, 0, 0, 0, 2, 3}, {2, 3}));
  one.step();
  other.step();
  EXPECT_EQ(a.tensor().detach().to_vector<float>(), b.tensor().detach().to_vector<float>());
  EXPECT_EQ(b.tensor().detach().to_vector<float>(), (std::vector<float>{0, 2, 3, 4, 3, 3}));
}

TEST(Optim, ManyElementsSplitOverThreads) {
  const int64_t n = 100003;
  std::vector<float> start_values(n), g(n);
  for (size_t i = 0; i < start_values.size(); ++i) {
    start_values[i] = static_cast<float>(i % 101) / 16;
    g[i] = static_cast<float>(i % 37) / 8 - 2;
  }
  Parameter small(Tensor::from<float>({1, 2, 3}, {3})), large(Tensor::from(start_values, {n})),
      last(Tensor::from<float>({4}, {1}));
  SGD opt({small, large, last}, {.lr = 0.5});
  small.set_grad(ones({3}));
  large.set_grad(Tensor::from(g, {n}));
  last.set_grad(ones({1}));
  opt.step();
  const auto got = large.tensor().detach().to_vector<float>();
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], start_values[i] - 0.5f * g[i]) << i;
  EXPECT_EQ(small.tensor().detach().to_vector<float>(), (std::vector<float>{0.5, 1.5, 2.5}));
  EXPECT_EQ(last.tensor().detach().to_vector<float>(), (std::vector<float>{3.5}));
}

TEST(Optim, HeldValuesDoNotChange) {
  const std::vector<Parameter> params = starts(DType::f32);
  AdamW opt(params);
  const std::vector<double> before = values(params);
  std::vector<Tensor> held;
  held.reserve(params.size());
  for (const Parameter& p : params) held.push_back(p.tensor().detach());
  const auto saved = opt.state_dict();
  set_gradients(params, 0, DType::f32);
  opt.step();
  std::vector<double> now;
  for (const Tensor& t : held)
    for (double v : t.to(DType::f64).to_vector<double>()) now.push_back(v);
  EXPECT_EQ(now, before);
  EXPECT_NE(values(params), before);
  for (const auto& [name, t] : saved)
    if (name.find('.') != std::string::npos) {
      for (float v : t.to_vector<float>()) EXPECT_EQ(v, 0) << name;
    }
}

TEST(Optim, FailedStepChangesNothing) {
  // A gradient in the wrong layout, parameters and moments that someone shares: every allocation fails in turn.
  Parameter p(Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3})), q(Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3}));
  AdamW opt({p}), control({q});
  const auto grad = Tensor::from<float>({1, 0, 0, 2, 0, 3}, {3, 2});
  const auto bytes = [](const Parameter& x) { return x.tensor().detach().to_vector<float>(); };
  int failures = 0;
  for (int64_t n = 1; n < 100; ++n) {
    p.set_grad(grad.t());
    const Tensor held = p.tensor().detach();
    const auto state = opt.state_dict();
    const auto before = bytes(p);
    fail_allocation(n);
    try {
      opt.step();
    } catch (const OutOfMemory&) {
      fail_allocation(0);
      ++failures;
      EXPECT_EQ(bytes(p), before) << n;
      EXPECT_EQ(opt.step_count(), 0) << n;
      const auto now = opt.state_dict();
      for (size_t i = 0; i < now.size(); ++i)
        EXPECT_EQ(now[i].second.to(DType::f64).to_vector<double>(), state[i].second.to(DType::f64).to_vector<double>());
      continue;
    }
    fail_allocation(0);
    break;
  }
  EXPECT_GE(failures, 3);
  q.set_grad(grad.t());
  control.step();
  EXPECT_EQ(bytes(p), bytes(q));
}

std::vector<double> train(AdamW& opt, const std::vector<Parameter>& params, size_t from, size_t to) {
  for (size_t step = from; step < to; ++step) {
    set_gradients(params, step, DType::f32);
    opt.step();
  }
  return values(params);
}

TEST(Optim, ResumeIsBitExact) {
  const optim::OneCycle cycle{.max_lr = 0.05, .total_steps = 20};
  const std::vector<Parameter> whole = starts(DType::f32);
  AdamW uninterrupted(whole);
  uninterrupted.set_schedule(cycle);
  const auto expected = train(uninterrupted, whole, 0, 12);

  const std::vector<Parameter> first = starts(DType::f32);
  AdamW before(first);
  before.set_schedule(cycle);
  train(before, first, 0, 5);
  const auto saved = before.state_dict();
  const auto resume = [&](const std::vector<std::pair<std::string, Tensor>>& entries) {
    std::vector<Parameter> params;
    params.reserve(first.size());
    for (const Parameter& p : first) params.emplace_back(p.tensor().detach());
    AdamW after(params, {.lr = 7});
    after.set_schedule(cycle);
    after.load_state(entries);
    return train(after, params, 5, 12);
  };
  EXPECT_EQ(resume(saved), expected);
  // Controls: one piece of state at a time put back to its start is told apart.
  for (size_t i = 0; i < saved.size(); ++i) {
    if (saved[i].first == "options") continue;  // the schedule sets the rate
    auto damaged = saved;
    damaged[i].second = zeros_like(saved[i].second);
    EXPECT_NE(resume(damaged), expected) << saved[i].first;
  }
}

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

TEST(Optim, LoadChecksBeforeItWrites) {
  const std::vector<Parameter> params = starts(DType::f32);
  AdamW opt(params);
  train(opt, params, 0, 2);
  const auto good = opt.state_dict();
  train(opt, params, 2, 3);
  const auto as_bytes = [&] {
    std::vector<std::vector<double>> out;
    for (const auto& [name, t] : opt.state_dict()) out.push_back(t.to(DType::f64).to_vector<double>());
    return out;
  };
  const auto before = as_bytes();
  auto bad = good;
  bad.back().second = zeros({4});
  EXPECT_EQ(message<ShapeError>([&] { opt.load_state(bad); }),
            "AdamW: load_state expected '2.exp_avg_sq' of shape [19], got [4]");
  bad = good;
  bad.back().second = good.back().second.to(DType::f64);
  EXPECT_EQ(message<DTypeError>([&] { opt.load_state(bad); }),
            "AdamW: load_state expected '2.exp_avg_sq' of float32, got float64");
  bad = good;
  bad.pop_back();
  EXPECT_EQ(message<ValueError>([&] { opt.load_state(bad); }),
            "AdamW: load_state expected an entry '2.exp_avg_sq', got none");
  bad = good;
  bad.emplace_back("3.exp_avg", zeros({4}));
  EXPECT_EQ(message<ValueError>([&] { opt.load_state(bad); }),
            "AdamW: load_state expected no entry '3.exp_avg' among 9 of 3 parameters");
  EXPECT_EQ(as_bytes(), before);
  opt.load_state(good);
  EXPECT_EQ(opt.step_count(), 2);
  EXPECT_NE(as_bytes(), before);
}

TEST(Optim, ReplayUsesFreshNumbers) {
  const optim::CosineAnnealing cosine{.lr = 0.1, .steps = 10};
  const std::vector<Parameter> eager = starts(DType::f32), replayed = starts(DType::f32);
  AdamW a(eager), b(replayed);
  a.set_schedule(cosine);
  b.set_schedule(cosine);
  train(a, eager, 0, 1);
  train(b, replayed, 0, 1);
  for (int i = 0; i < 3; ++i) {
    set_gradients(eager, 1, DType::f32);
    a.step();
  }
  set_gradients(replayed, 1, DType::f32);
  Recorder rec;
  b.step();
  ASSERT_EQ(rec.launches.size(), 1u);
  ASSERT_EQ(rec.hooks.size(), 1u);
  EXPECT_STREQ(rec.refused, "the optimizer read a gradient that was made outside the step");  // as it was, above
  const RecordedLaunch& l = rec.launches[0];
  std::vector<void*> pointers;
  for (const RecordedBuffer& buffer : l.buffers)
    for (const Ref<Storage>& s : rec.outside)
      if (s->id() == buffer.storage_id) pointers.push_back(static_cast<char*>(s->data()) + buffer.offset);
  ASSERT_EQ(pointers.size(), 3u + 9u);
  for (int i = 0; i < 2; ++i) {
    rec.hooks[0].advance();
    l.plan->body(flame::Run{pointers.data(), l.scalars.data(), nullptr});
  }
  EXPECT_EQ(b.step_count(), 4);
  EXPECT_EQ(b.lr(), cosine.at(4));
  rec.hooks[0].advance();
  rec.hooks[0].undo();
  EXPECT_EQ(b.step_count(), 4);
  for (size_t k = 0; k < eager.size(); ++k) {
    const size_t n = static_cast<size_t>(eager[k].numel()) * sizeof(float);
    EXPECT_EQ(std::memcmp(eager[k].tensor().data(), replayed[k].tensor().data(), n), 0) << k;
  }
}

// A small regression with dropout, clipping and a schedule; what is left after 15 steps.
std::vector<double> train_net(bool recorded, uint64_t& replays) {
  manual_seed(5);
  nn::Sequential net{{nn::layer<nn::Linear>({.in = 4, .out = 8}), nn::layer<nn::ReLU>(),
                      nn::layer<nn::Dropout>({.p = 0.25}), nn::layer<nn::Linear>({.in = 8, .out = 1})}};
  AdamW opt(net.parameters());
  opt.set_schedule(optim::OneCycle{.max_lr = 0.05, .total_steps = 15, .cycle_momentum = true});
  const auto step = [&](const Tensor& x) {
    const Tensor error = net(x) - x.sum(1, true);
    Tensor loss = (error * error).mean();
    backward(loss);
    optim::clip_grad_norm(net.parameters(), 0.5);
    opt.step();
    return loss;
  };
  auto replayed = record(step);
  std::vector<double> out;
  for (int i = 0; i < 15; ++i) {
    const Tensor x = randn({16, 4});
    x.data();
    out.push_back((recorded ? replayed(x) : step(x)).item());
  }
  for (double v : values(net.parameters())) out.push_back(v);
  EXPECT_EQ(opt.step_count(), 15);
  replays = replayed.stats().replays;
  return out;
}

TEST(Optim, RecordedTrainingEqualsEager) {
  uint64_t none = 0, replays = 0;
  const auto eager = train_net(false, none), recorded = train_net(true, replays);
  EXPECT_EQ(eager, recorded);
  EXPECT_GE(replays, 10u);
  EXPECT_LT(eager[14], eager[0]);
}

TEST(Optim, FrozenParametersStayAndThawed) {
  const std::vector<Parameter> params = starts(DType::f32);
  params[1].requires_grad_(false);
  AdamW opt(params);
  EXPECT_EQ(opt.state_dict().size(), 2u + 4u);
  params[0].set_grad(gradient(0, 0, DType::f32));
  const auto before = params[1].tensor().detach().to_vector<float>();
  opt.step();
  EXPECT_EQ(params[1].tensor().detach().to_vector<float>(), before);
  params[1].requires_grad_(true);
  params[1].set_grad(gradient(1, 0, DType::f32));
  opt.step();
  EXPECT_NE(params[1].tensor().detach().to_vector<float>(), before);
  EXPECT_EQ(opt.state_dict().size(), 2u + 6u);
}

TEST(Optim, RatesAndGroups) {
  const std::vector<Parameter> p = starts(DType::f32);
  SGD opt({{.parameters = {p[0]}, .options = {.lr = 0.5}}, {.parameters = {p[1], p[2]}, .options = {.lr = 0.25}}});
  EXPECT_EQ(opt.groups(), 2u);
  EXPECT_EQ(opt.lr(0), 0.5);
  EXPECT_EQ(opt.lr(1), 0.25);
  opt.set_lr(1, 0.125);
  opt.set_schedule(0, [](int64_t step) { return 1.0 / static_cast<double>(1 + step); });
  EXPECT_EQ(opt.lr(0), 1);
  set_gradients(p, 0, DType::f32);
  opt.step();
  EXPECT_EQ(opt.lr(0), 0.5);
  EXPECT_EQ(opt.lr(1), 0.125);
  EXPECT_EQ(message<IndexError>([&] { opt.lr(2); }), "SGD: expected a group below 2, got 2");
  EXPECT_EQ(message<ValueError>([&] { opt.set_lr(-1); }), "SGD: expected lr of 0 or more, got -1");
}

TEST(Optim, Errors) {
  const std::vector<Parameter> p = starts(DType::f32);
  EXPECT_EQ(message<ValueError>([&] { AdamW(std::vector<Parameter>{}); }),
            "AdamW: expected one parameter or more, got none");
  EXPECT_EQ(message<ValueError>([&] {
              AdamW({p[0], p[0]});
            }),
            "AdamW: expected each parameter once, got the one at 1 twice");
  EXPECT_EQ(message<ValueError>([&] { AdamW({Parameter{}}); }),
            "AdamW: expected defined parameters, got an undefined one at 0");
  EXPECT_EQ(message<ValueError>([&] {
              AdamW(p, {.betas = {0.9, 1}});
            }),
            "AdamW: expected betas in [0, 1), got 0.9 and 1");
  EXPECT_EQ(message<ValueError>([&] { Adam(p, {.lr = -0.5}); }), "Adam: expected lr of 0 or more, got -0.5");
  EXPECT_EQ(message<ValueError>([&] { SGD(p, {.nesterov = true}); }),
            "SGD: nesterov expected momentum above 0 and no dampening, got momentum 0 and dampening 0");
  try {
    const SGD bad(p, {.weight_decay = -1});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.where().line(), static_cast<uint32_t>(__LINE__ - 3));
    EXPECT_NE(std::string(e.where().file_name()).find("optim_test.cpp"), std::string::npos);
  }
}

TEST(Clip, TwoLaunchesAndNoHostRead) {
  const std::vector<Parameter> params = starts(DType::f32);
  for (int i = 0; i < 2; ++i) {
    set_gradients(params, 3, DType::f32);
    const Stats before = stats();
    const Tensor norm = optim::clip_grad_norm(params, 1);
    EXPECT_EQ(stats().launches - before.launches, 2u) << "the norm, and the scaling";
    EXPECT_EQ(stats().host_copies, before.host_copies);
    if (i == 1) { EXPECT_EQ(stats().plans_prepared, before.plans_prepared); }
  }
}

TEST(Clip, SkipsMissingAndKeepsNaN) {
  const std::vector<Parameter> params = starts(DType::f32);
  EXPECT_EQ(optim::clip_grad_norm(params, 1).item(), 0);
  params[0].set_grad(Tensor::from<float>({3, 0, NAN, 0, 0}, {5}));
  params[2].set_grad(ones({19}));
  optim::clip_grad_value(params, 0.5);
  const auto clamped = params[0].grad().to_vector<float>();
  EXPECT_EQ(clamped[0], 0.5f);
  EXPECT_TRUE(std::isnan(clamped[2]));
  EXPECT_TRUE(std::isnan(optim::clip_grad_norm(params, 1).item()));
  EXPECT_TRUE(std::isnan(params[2].grad().to_vector<float>()[0]));
  EXPECT_FALSE(params[1].grad().defined());
  EXPECT_EQ(message<ValueError>([&] { optim::clip_grad_norm(params, -1); }),
            "clip_grad_norm: expected a limit of 0 or more, got -1");
}

TEST(Clip, SixteenBitAndLarge) {
  Parameter half(zeros({3}, DType::bf16)), large(zeros({20001}));
  half.set_grad(Tensor::from<float>({2, -2, 1}, {3}).to(DType::bf16));
  large.set_grad(ones({20001}));
  const Tensor norm = optim::clip_grad_norm({half, large}, 1);
  const double expected = std::sqrt(20001.0 + 9);
  EXPECT_NEAR(norm.item(), expected, 1e-5 * expected);
  EXPECT_EQ(half.grad().dtype(), DType::bf16);
  EXPECT_NEAR(half.grad().to(DType::f32).to_vector<float>()[0], 2 / expected, 2 / expected / 256);
  for (const float g : large.grad().to_vector<float>()) ASSERT_NEAR(g, 1 / expected, 1e-8);
}

}  // namespace
}  // namespace flame
