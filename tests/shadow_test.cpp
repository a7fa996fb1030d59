// Shadows of States: 16-bit copies at an address that stays, written by optimizers in their own launch, marked by all other
// writers, and read fresh by recorded steps.
#include <gtest/gtest.h>

#include <cstring>

#include "flame/device/device_scope.h"
#include "flame/device/planted.h"
#include "flame/tensor/internal.h"
#include "flame/tensor/shadow.h"
#include "tests/support/cuda_support.h"
#include "tests/support/graph_device.h"
#include "tests/support/optim_cases.h"

namespace flame {
namespace {

using namespace test;

Tensor shadow(const State& s, DType t = DType::bf16) { return Tensor(shadow_of(s.value(), t, Loc::current())); }
// The bytes that lie there, whether they are fresh or not.
Tensor raw_shadow(const State& s, DType t = DType::bf16) {
  return Tensor(s.value().cell->shadows[t == DType::f16 ? 0 : 1].cell->value);
}
bool is_fresh(const State& s, DType t = DType::bf16) { return s.value().cell->shadows[t == DType::f16 ? 0 : 1].fresh; }
void expect_rounded(const State& s, DType t = DType::bf16) {
  EXPECT_EQ(bytes(raw_shadow(s, t)), bytes(s.tensor().detach().to(t)));
}
Parameter weights(const Shape& shape = {3, 4}) { return Parameter(uniform(shape, -1, 1, {.device = &cpu()})); }

TEST(Shadow, IsTheRoundedValueOnceAtOneAddress) {
  const Parameter w = weights();
  flush_pending();  // what tables of other tests hold since the program began
  const Stats before = stats();
  for (const DType t : {DType::bf16, DType::f16}) {
    const Tensor first = shadow(w, t);
    EXPECT_EQ(first.dtype(), t);
    EXPECT_EQ(bytes(first), bytes(w.tensor().detach().to(t)));
    EXPECT_EQ(shadow(w, t).data(), first.data());
  }
  EXPECT_EQ(stats().launches - before.launches, 4u);  // two casts of shadows, and the two they are compared with
}

TEST(Shadow, OfViewsIsAViewOfTheSame) {
  const Parameter w = weights({6, 4});
  const void* address = shadow(w).data();
  const Tensor turned = w.tensor().detach().t(), part = w.tensor().detach().slice(0, 1, 5, 2);
  const Tensor a(shadow_of(turned.value(), DType::bf16, Loc::current()));
  const Tensor b(shadow_of(part.value(), DType::bf16, Loc::current()));
  EXPECT_EQ(a.data(), address);
  EXPECT_EQ(a.strides(), turned.strides());
  EXPECT_EQ(bytes(a), bytes(turned.to(DType::bf16)));
  EXPECT_EQ(bytes(b), bytes(part.to(DType::bf16)));
  // A transposed State keeps its strides, and so does its shadow.
  const Parameter other(w.tensor().detach().t());
  EXPECT_EQ(shadow(other).strides(), other.value().strides);
  expect_rounded(other);
}

TEST(Shadow, EveryWriterMarksIt) {
  struct Net : nn::Module {
    nn::Linear layer{*this, "layer", {.in = 4, .out = 3}};
  } net, other;
  Parameter& w = net.layer.weight;
  const void* address = shadow(w).data();
  const auto expect_refreshed = [&](const char* writer) {
    EXPECT_FALSE(is_fresh(w)) << writer;
    EXPECT_NE(bytes(raw_shadow(w)), bytes(w.tensor().detach().to(DType::bf16))) << writer;  // a control
    EXPECT_EQ(shadow(w).data(), address) << writer;
    expect_rounded(w);
    EXPECT_TRUE(is_fresh(w)) << writer;
  };
  w.assign(w.tensor().detach() * 2);
  expect_refreshed("assign");
  nn::normal(w, 0, 3);
  expect_refreshed("an initialiser");
  net.load_state(other.state_dict());
  expect_refreshed("load_state");
  optim::EMA ema(net, {.decay = 0.5});
  w.assign(w.tensor().detach() * -3);
  shadow(w);
  ema.update();
  EXPECT_TRUE(is_fresh(w));  // which writes the averages alone
  ema.swap_in();
  expect_refreshed("EMA::swap_in");
  ema.swap_out();
  expect_refreshed("EMA::swap_out");
  ema.copy_to(net);
  expect_refreshed("EMA::copy_to");
  const auto fail = [&] {
    attempt([&] {
      w.assign(w.tensor().detach() + 1);
      shadow(w);
      throw std::runtime_error("no");
    });
  };
  EXPECT_THROW(fail(), std::runtime_error);
  expect_refreshed("the end of an attempt");
}

TEST(Shadow, ReadersKeepTheOldBytes) {
  const Parameter w = weights();
  const Tensor held = shadow(w), turned = held.t();
  const std::vector<unsigned char> old = bytes(held), old_turned = bytes(turned);
  const void* address = held.data();
  optim::SGD sgd({w}, {.lr = 0.5});
  w.set_grad(ones_like(w.tensor().detach()));
  sgd.step();
  EXPECT_EQ(bytes(held), old);
  EXPECT_EQ(bytes(turned), old_turned);
  EXPECT_NE(held.data(), address);
  EXPECT_EQ(raw_shadow(w).data(), address);
  EXPECT_NE(bytes(shadow(w)), old);
  w.assign(w.tensor().detach() * 3);
  const Tensor again = raw_shadow(w);  // stale, and held
  const std::vector<unsigned char> stale = bytes(again);
  EXPECT_EQ(shadow(w).data(), address);
  EXPECT_EQ(bytes(again), stale);
}

TEST(Shadow, IsFreedWithItsState) {
  const size_t before = memory_stats(cpu()).allocated;
  {
    const Parameter w = weights({64, 64});
    const size_t alone = memory_stats(cpu()).allocated;
    shadow(w);
    EXPECT_EQ(memory_stats(cpu()).allocated - alone, 64u * 64 * 2);
  }
  EXPECT_EQ(memory_stats(cpu()).allocated, before);
}

TEST(Shadow, NoMemoryChangesNothing) {
  const Parameter w = weights();
  const std::vector<unsigned char> before = bytes(w.tensor());
  fail_allocation(1);
  EXPECT_THROW(shadow(w), OutOfMemory);
  fail_allocation(0);
  EXPECT_EQ(bytes(w.tensor()), before);
  shadow(w);
  expect_rounded(w);
}

// One after another, on a device.
void expect_written_by_every_optimizer(Device& d, size_t launches) {
  for (const DType t : {DType::bf16, DType::f16})
    for (const OptimCase& c : optim_cases()) {
      SCOPED_TRACE(c.name);
      Parameters params, plain;
      for (size_t k = 0; k < optim_shapes.size(); ++k) {
        params.emplace_back(optim_start(k, DType::f32).to(d));
        plain.emplace_back(optim_start(k, DType::f32).to(d));
      }
      optim::Optimizer opt = c.make(params), control = c.make(plain);
      const auto gradients = [&](const Parameters& list, size_t step) {
        for (size_t k = 0; k < list.size(); ++k) list[k].set_grad(optim_gradient(k, step, DType::f32).to(d));
      };
      shadow(params[0], t);  // parameter 1 has none
      const void* address = shadow(params[2], t).data();
      for (size_t step = 0; step < 4; ++step) {
        gradients(params, step);
        gradients(plain, step);
        const Stats before = stats();
        opt.step({.max_norm = step == 3 ? 0.5 : 0});
        if (step > 0 && step < 3) { EXPECT_EQ(stats().launches - before.launches, launches); }
        control.step({.max_norm = step == 3 ? 0.5 : 0});
        for (const size_t k : {size_t{0}, size_t{2}}) {
          EXPECT_TRUE(is_fresh(params[k], t));
          expect_rounded(params[k], t);
        }
        for (size_t k = 0; k < params.size(); ++k) EXPECT_EQ(bytes(params[k].tensor()), bytes(plain[k].tensor()));
      }
      EXPECT_EQ(raw_shadow(params[2], t).data(), address);
    }
}

TEST(Shadow, IsWrittenByEveryOptimizerInItsLaunch) { expect_written_by_every_optimizer(cpu(), 1); }

TEST(CudaOptim, ShadowsAreWrittenByEveryOptimizer) {
  FLAME_NEEDS_GPU(d);
  expect_written_by_every_optimizer(d, 1);
}

TEST(Shadow, OneThatNobodyReadsIsNoLongerWritten) {
  const Parameter w = weights();
  optim::SGD sgd({w}, {.lr = 0.1});
  const auto step = [&] {
    w.set_grad(ones_like(w.tensor().detach()));
    sgd.step();
  };
  const void* address = shadow(w).data();
  for (int i = 0; i < 8; ++i) step();
  EXPECT_TRUE(is_fresh(w));
  step();
  EXPECT_FALSE(is_fresh(w));
  EXPECT_EQ(shadow(w).data(), address);
  expect_rounded(w);
  step();
  EXPECT_TRUE(is_fresh(w));
  expect_rounded(w);
}

TEST(Shadow, AFailedStepChangesNothing) {
  int failures = 0;
  for (const OptimCase& c : optim_cases()) {
    const Parameters params = optim_starts(DType::f32);
    optim::Optimizer opt = c.make(params);
    for (const Parameter& p : params) shadow(p);
    set_gradients(params, 0);
    opt.step();
    std::vector<std::vector<unsigned char>> before;
    for (const Parameter& p : params) before.push_back(bytes(p.tensor()));
    for (int64_t n = 1; n < 100; ++n) {
      set_gradients(params, 1);
      std::vector<Tensor> held;  // parted, which takes memory
      for (const Parameter& p : params) held.push_back(shadow(p));
      fail_allocation(n);
      bool refused = false;
      try {
        opt.step();
      } catch (const OutOfMemory&) { refused = true; }
      fail_allocation(0);
      if (!refused) break;
      ++failures;
      for (size_t k = 0; k < params.size(); ++k) {
        ASSERT_EQ(bytes(params[k].tensor()), before[k]) << c.name << " allocation " << n;
        ASSERT_EQ(bytes(shadow(params[k])),
                  bytes(Tensor::from(params[k].tensor().to_vector<float>(), params[k].shape()).to(DType::bf16)));
      }
    }
    for (const Parameter& p : params) expect_rounded(p);
  }
  EXPECT_GE(failures, static_cast<int>(3 * optim_cases().size()));
}

// A step that reads shadows, in a recording and without one.
struct Trained {
  Parameter w = weights({4, 4});
  optim::AdamW opt{{w}, {.lr = 0.1}};
  Tensor step(const Tensor& x) {
    const Tensor half = shadow(w);
    const Tensor y = sum(matmul(x, half.to(DType::f32)));
    w.set_grad(half.to(DType::f32) * x);
    opt.step();
    return y;
  }
};

TEST(Shadow, RecordedStepsReadAFreshOne) {
  const Tensor start = uniform({4, 4}, -1, 1);
  Trained eager, recorded;
  eager.w.assign(start);
  recorded.w.assign(start);
  auto replayed = record([&](const Tensor& x) { return recorded.step(x); });
  const auto both = [&](int from, int to) {
    for (int i = from; i < to; ++i) {
      const Tensor x = uniform({4, 4}, -1, 1);
      ASSERT_EQ(bytes(replayed(x)), bytes(eager.step(x))) << "at " << i;
      ASSERT_EQ(bytes(recorded.w.tensor()), bytes(eager.w.tensor())) << "at " << i;
      ASSERT_TRUE(is_fresh(recorded.w));
      expect_rounded(recorded.w);
    }
  };
  both(0, 5);
  EXPECT_EQ(replayed.stats().replays, 3u) << replayed.stats().last_miss;
  // Made stale between two replays, by any writer: cast before the next.
  const Tensor other = uniform({4, 4}, -1, 1);
  recorded.w.assign(other);
  eager.w.assign(other);
  both(5, 7);
  // A reader outside keeps what it holds.
  const Tensor held = shadow(recorded.w);
  const std::vector<unsigned char> old = bytes(held);
  both(7, 9);
  EXPECT_EQ(bytes(held), old);
  EXPECT_EQ(replayed.stats().replays, 7u) << replayed.stats().last_miss;
  EXPECT_EQ(replayed.stats().misses, 0u);
}

TEST(Shadow, OneThatARecordedStepDoesNotKnowIsMarkedByIt) {
  const Parameter w = weights();
  optim::SGD sgd({w}, {.lr = 0.1});
  auto step = record([&](const Tensor& x) {
    backward(sum(w.tensor() * x));
    sgd.step();
    return x * 2;
  });
  const Tensor x = uniform({3, 4}, 1, 2);
  for (int i = 0; i < 4; ++i) step(x);
  EXPECT_EQ(step.stats().replays, 2u);
  shadow(w);
  expect_rounded(w);
  step(x);
  EXPECT_EQ(step.stats().replays, 3u);
  EXPECT_FALSE(is_fresh(w));
  shadow(w);
  expect_rounded(w);
}

TEST(Shadow, AStepThatWritesBeforeItReadsCastsInside) {
  const Parameter w = weights();
  const auto body = [](const Parameter& p, const Tensor& x) {
    p.assign(p.tensor().detach() * x);
    const Tensor y = shadow(p).to(DType::f32) + 1;
    p.assign(p.tensor().detach() + 1);
    return y;
  };
  const Parameter eager(w.tensor().detach());
  shadow(w);
  auto step = record([&](const Tensor& x) { return body(w, x); });
  for (int i = 0; i < 6; ++i) {
    const Tensor x = uniform({3, 4}, 0.5, 2);
    ASSERT_EQ(bytes(step(x)), bytes(body(eager, x))) << i;
    ASSERT_EQ(bytes(w.tensor()), bytes(eager.tensor())) << i;
    ASSERT_FALSE(is_fresh(w)) << i;
  }
  EXPECT_EQ(step.stats().replays, 4u) << step.stats().last_miss;
}

// A replay that fails between the write of a State and that of its shadow, one that never begins, and a run that fails.
TEST(Shadow, AFailedReplayLeavesNoneThatOnlySeemsFresh) {
  for (Device* const d : {&cpu(), static_cast<Device*>(&graph_device())}) {
    const DeviceScope device(*d);
    const Parameter w(uniform({3, 4}, -1, 1));
    shadow(w);
    bool fails = false;
    const Ref<Plan> plan = make_ref<Plan>("may fail", [&](const flame::Run&) {
      if (fails) throw ValueError("a planted failure", Loc::current());
    });
    auto step = record([&](const Tensor& x) {
      w.assign(w.tensor().detach() * x);
      const Buffer at = w.value().buffer();
      d->launch({plan, {&at, 1}, {}, {}});
      return shadow(w).to(DType::f32) + 1;
    });
    const auto expect_failure = [&] {
      w.assign(w.tensor().detach() + 1);
      fails = graph_device().fail_start = true;
      EXPECT_ANY_THROW(step(uniform({3, 4}, 0.5, 2)));
      fails = graph_device().fail_start = false;
      shadow(w);
      expect_rounded(w);
    };
    step(uniform({3, 4}, 0.5, 2));
    expect_failure();
    for (int i = 0; i < 3; ++i) {
      step(uniform({3, 4}, 0.5, 2));
      EXPECT_TRUE(is_fresh(w));
      expect_rounded(w);
    }
    EXPECT_EQ(step.stats().replays, 2u) << step.stats().last_miss;
    expect_failure();
    EXPECT_EQ(step.stats().replays, 2u);
    step(uniform({3, 4}, 0.5, 2));
    EXPECT_TRUE(is_fresh(w));
    expect_rounded(w);
  }
}

TEST(Shadow, VerifiedReplaysAgree) {
  Trained net;
  auto step = record([&](const Tensor& x) { return net.step(x); }, {.verify = 1});
  for (int i = 0; i < 6; ++i) {
    step(uniform({4, 4}, -1, 1));
    if (i == 3) net.w.assign(net.w.tensor().detach() * 0.5);
    else expect_rounded(net.w);
  }
  EXPECT_EQ(step.stats().replays, 4u) << step.stats().last_miss;
}

}  // namespace
}  // namespace flame
