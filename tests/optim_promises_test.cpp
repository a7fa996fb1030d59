// What every optimizer promises: resume and replay bit for bit, one launch, no change by a failed step, float32 moments
// for 16 bits, the same bits on any number of threads and in any layout.
#include <gtest/gtest.h>

#include "flame/device/cpu/cpu_device.h"
#include "tests/support/optim_cases.h"

namespace flame {
namespace {

using namespace test;
using Entries = std::vector<std::pair<std::string, Tensor>>;

std::vector<std::vector<unsigned char>> bytes_of(const optim::Optimizer& opt, const Parameters& params) {
  std::vector<std::vector<unsigned char>> out;
  for (const Parameter& p : params) out.push_back(bytes(p.tensor()));
  for (const auto& [name, t] : opt.state_dict()) out.push_back(bytes(t));
  return out;
}
void train(optim::Optimizer& opt, const Parameters& params, size_t from, size_t to) {
  for (size_t step = from; step < to; ++step) {
    set_gradients(params, step);
    opt.step();
  }
}
Parameters copies(const Parameters& params) {
  Parameters out;
  for (const Parameter& p : params) out.emplace_back(p.tensor().detach());
  return out;
}

TEST(EveryOptimizer, ResumesBitForBit) {
  for (const OptimCase& c : optim_cases()) {
    SCOPED_TRACE(c.name);
    const Parameters whole = optim_starts(DType::f32), first = optim_starts(DType::f32);
    optim::Optimizer uninterrupted = c.make(whole), before = c.make(first);
    train(uninterrupted, whole, 0, 9);
    train(before, first, 0, 4);
    const Entries saved = before.state_dict();
    const auto resume = [&](const Entries& entries) {
      const Parameters params = copies(first);
      optim::Optimizer after = c.make(params);
      after.set_lr(7);  // the saved rates come back
      after.load_state(entries);
      train(after, params, 4, 9);
      return bytes_of(after, params);
    };
    EXPECT_EQ(resume(saved), bytes_of(uninterrupted, whole));
    // Controls: another moment is told apart.
    for (size_t i = 2; i < saved.size(); ++i) {
      Entries damaged = saved;
      damaged[i].second = saved[i].second + 100;
      EXPECT_NE(resume(damaged), bytes_of(uninterrupted, whole)) << saved[i].first;
    }
  }
}

TEST(EveryOptimizer, ReplaysBitForBit) {
  for (const OptimCase& c : optim_cases()) {
    SCOPED_TRACE(c.name);
    const Parameters eager = optim_starts(DType::f32), recorded = optim_starts(DType::f32);
    optim::Optimizer a = c.make(eager), b = c.make(recorded);
    for (optim::Optimizer* o : {&a, &b}) o->set_schedule(0, optim::StepLR{.lr = 0.05, .step_size = 2, .gamma = 0.5});
    const auto step = [](const Parameters& p, optim::Optimizer& o, const Tensor& x) {
      Tensor loss = sum(square(p[0].tensor() * x)) + sum(sin(p[1].tensor() * sum(x))) + sum(exp(p[2].tensor() * 0.5));
      backward(loss);
      o.step();
      return loss;
    };
    auto replayed = record([&](const Tensor& x) { return step(recorded, b, x); });
    for (size_t i = 0; i < 8; ++i) {
      const Tensor x = optim_gradient(0, i, DType::f32);
      step(eager, a, x);
      replayed(x);
      ASSERT_EQ(bytes_of(a, eager), bytes_of(b, recorded)) << "at step " << i;
    }
    EXPECT_EQ(replayed.stats().replays, 6u) << replayed.stats().last_miss;
  }
}

TEST(EveryOptimizer, StepsInOneLaunch) {
  for (const OptimCase& c : optim_cases()) {
    const Parameters params = optim_starts(DType::f32);
    optim::Optimizer opt = c.make(params);
    train(opt, params, 0, 1);
    set_gradients(params, 1);
    const Stats before = stats();
    opt.step();
    EXPECT_EQ(stats().launches - before.launches, 1u) << c.name;
    EXPECT_EQ(stats().plans_prepared, before.plans_prepared) << c.name;
    EXPECT_EQ(stats().host_copies, before.host_copies) << c.name;
  }
}

TEST(EveryOptimizer, AFailedStepChangesNothing) {
  int failures = 0;
  for (const OptimCase& c : optim_cases()) {
    SCOPED_TRACE(c.name);
    const Parameters params = optim_starts(DType::f32), calm = optim_starts(DType::f32);
    optim::Optimizer opt = c.make(params), control = c.make(calm);
    train(opt, params, 0, 2);
    train(control, calm, 0, 3);
    const auto before = bytes_of(opt, params);
    for (int64_t n = 1; n < 100; ++n) {
      set_gradients(params, 2);
      params[1].set_grad(optim_gradient(1, 2, DType::f32).t().contiguous().t());  // another layout
      std::vector<Tensor> held;                                                   // must be parted, which allocates
      for (const Parameter& p : params) held.push_back(p.tensor().detach());
      const Entries state = opt.state_dict();
      fail_allocation(n);
      bool refused = false;
      try {
        opt.step();
      } catch (const OutOfMemory&) { refused = true; }
      fail_allocation(0);
      if (!refused) break;
      ++failures;
      ASSERT_EQ(bytes_of(opt, params), before) << "allocation " << n;
    }
    EXPECT_EQ(bytes_of(opt, params), bytes_of(control, calm));
  }
  EXPECT_GT(failures, static_cast<int>(4 * optim_cases().size()));
  std::printf("  %d steps failed for memory\n", failures);
}

TEST(EveryOptimizer, ANaNInAnomalyModeChangesNothing) {
  for (const OptimCase& c : optim_cases()) {
    const Parameters params = optim_starts(DType::f32);
    optim::Optimizer opt = c.make(params);
    train(opt, params, 0, 2);
    const auto before = bytes_of(opt, params);
    const AnomalyMode anomaly;
    const auto step = [&] {
      Tensor total = sum(params[1].tensor()) + sum(sqrt(params[0].tensor() * 0)) + sum(params[2].tensor());
      backward(total);
      opt.step();
    };
    EXPECT_THROW(step(), AutogradError) << c.name;
    EXPECT_EQ(bytes_of(opt, params), before) << c.name;
  }
}

TEST(EveryOptimizer, KeepsFloatMomentsForSixteenBits) {
  for (const OptimCase& c : optim_cases())
    for (const DType t : {DType::bf16, DType::f16}) {
      SCOPED_TRACE(std::string(c.name) + " " + std::string(name_of(t)));
      const Parameters params = optim_starts(t), reference = optim_starts(DType::f32);
      optim::Optimizer opt = c.make(params), exact = c.make(reference);
      for (size_t step = 0; step < 4; ++step) {
        for (size_t k = 0; k < params.size(); ++k) {
          params[k].set_grad(optim_gradient(k, step, t));
          reference[k].set_grad(optim_gradient(k, step, t).to(DType::f32));
        }
        opt.step();
        exact.step();
        for (const Parameter& p : reference) p.assign(p.tensor().detach().to(t).to(DType::f32));
      }
      EXPECT_EQ(all_numbers(params), all_numbers(reference));
      const Entries a = opt.state_dict(), b = exact.state_dict();
      for (size_t i = 0; i < a.size(); ++i) EXPECT_EQ(difference(a[i].second, b[i].second), "") << a[i].first;
    }
}

TEST(EveryOptimizer, ClimbsBySignedGradients) {
  using namespace optim;
  const auto compare = [](const char* name, const MakeOptimizer& up, const MakeOptimizer& down) {
    const Parameters a = optim_starts(DType::f32), b = optim_starts(DType::f32);
    Optimizer climbs = up(a), falls = down(b);
    for (size_t step = 0; step < 4; ++step) {
      set_gradients(a, step);
      for (size_t k = 0; k < b.size(); ++k) b[k].set_grad(optim_gradient(k, step, DType::f32) * -1.0);
      climbs.step();
      falls.step();
    }
    EXPECT_EQ(all_numbers(a), all_numbers(b)) << name;
    EXPECT_NE(all_numbers(a), all_numbers(optim_starts(DType::f32))) << name;
  };
  const auto both = [&]<class O>(const char* name, O o) {
    o.weight_decay = 0.1;
    O up = o;
    up.maximize = true;
    compare(name, two_groups(up, up), two_groups(o, o));
  };
  both("SGD", SGDOptions{.momentum = 0.9});
  both("Adam", AdamOptions{});
  both("AdamW", AdamWOptions{});
  both("RMSprop", RMSpropOptions{.momentum = 0.9, .centered = true});
  both("Adagrad", AdagradOptions{});
  both("NAdam", NAdamOptions{});
  both("RAdam", RAdamOptions{});
  both("Adamax", AdamaxOptions{});
  both("Lion", LionOptions{});
  both("Adafactor", AdafactorOptions{});
}

// Large enough for several threads, bands and batches; among the sizes some that no vector divides.
Parameters large() {
  Parameters out;
  const std::vector<Shape> shapes = {{70001}, {300, 517}, {1024, 1030}, {40, 30, 3, 3}, {3, 200, 65}, {1}, {0, 4}, {}};
  for (const Shape& s : shapes) {
    std::vector<float> v(static_cast<size_t>(numel(s)));
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i * 7919 % 1013) / 512 - 1;
    out.emplace_back(Tensor::from(v, s));
  }
  return out;
}
void set_large_gradients(const Parameters& params, size_t step) {
  for (const Parameter& p : params) {
    std::vector<float> v(static_cast<size_t>(p.numel()));
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>((i + step) * 104729 % 2027) / 1024 - 1;
    p.set_grad(Tensor::from(v, p.shape()).to(p.dtype()));
  }
}

TEST(EveryOptimizer, GivesTheSameBitsOnAnyNumberOfThreads) {
  const int before = num_threads();
  for (const OptimCase& c : optim_cases()) {
    std::vector<std::vector<unsigned char>> first;
    for (const int threads : {1, 2, 3}) {
      set_num_threads(threads);
      const Parameters params = large();
      optim::Optimizer opt = c.make(params);
      for (size_t step = 0; step < 2; ++step) {
        set_large_gradients(params, step);
        opt.step();
      }
      const auto now = bytes_of(opt, params);
      if (first.empty()) first = now;
      EXPECT_EQ(now, first) << c.name << " on " << threads;
    }
  }
  set_num_threads(before);
}

// Parameters keep the strides they were made with; so do the moments that have their shape.
TEST(EveryOptimizer, TakesAnyLayout) {
  for (const OptimCase& c : optim_cases())
    for (const DType t : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(std::string(c.name) + " " + std::string(name_of(t)));
      const Parameters plain = optim_starts(t);
      const Parameters turned = {Parameter(optim_start(0, t)), Parameter(optim_start(1, t).t().contiguous().t()),
                                 Parameter(optim_start(2, t).permute({2, 0, 1}).contiguous().permute({1, 2, 0}))};
      ASSERT_FALSE(is_contiguous(turned[2].shape(), turned[2].value().strides));
      optim::Optimizer a = c.make(plain), b = c.make(turned);
      train(a, plain, 0, 3);
      train(b, turned, 0, 3);
      EXPECT_EQ(all_numbers(plain), all_numbers(turned));
      const Entries x = a.state_dict(), y = b.state_dict();
      for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(difference(x[i].second, y[i].second), "") << x[i].first;
    }
}

// Adafactor's bands and batches against the formulas in tensor ops, float64.
TEST(Adafactor, OfLargeTensorsFollowsTheFormulas) {
  const Parameters params = large();
  Parameters wide;
  for (const Parameter& p : params) wide.emplace_back(p.tensor().detach().to(DType::f64));
  optim::Adafactor opt(params, {.lr = 0.1}), exact(wide, {.lr = 0.1});
  std::vector<Tensor> by_hand;
  std::vector<Tensor> rows(params.size()), columns(params.size());
  for (const Parameter& p : wide) by_hand.push_back(p.tensor().detach());
  for (size_t step = 0; step < 2; ++step) {
    set_large_gradients(params, step);
    set_large_gradients(wide, step);
    for (size_t k = 0; k < params.size(); ++k) {
      if (params[k].numel() == 0) continue;
      const Tensor g = wide[k].grad(), squares = square(g);
      const double t = static_cast<double>(step + 1), weight = std::pow(t, -0.8);
      const bool matrix = g.rank() > 1;
      const Tensor row = matrix ? mean(squares, {-1}, true) : squares;
      rows[k] = step == 0 ? row : rows[k] + (row - rows[k]) * weight;
      Tensor v = rows[k];
      if (matrix) {
        const Tensor column = mean(squares, {-2}, true);
        columns[k] = step == 0 ? column : columns[k] + (column - columns[k]) * weight;
        v = rows[k] * columns[k] / mean(rows[k], {-2}, true);
      }
      const Tensor u = g / sqrt(maximum(v, full_like(v, 0x1p-104)));
      const double scale = std::max(1e-3, std::sqrt(mean(square(by_hand[k])).item()));
      const double rate = scale * std::min(0.1, 1 / std::sqrt(t)) / std::max(1.0, std::sqrt(mean(square(u)).item()));
      by_hand[k] = by_hand[k] - u * rate;
    }
    opt.step();
    exact.step();
  }
  for (size_t k = 0; k < params.size(); ++k) {
    EXPECT_LE(error_of(wide[k].tensor(), by_hand[k]).units, 16) << k;
    EXPECT_LE(error_of(numbers(params[k].tensor()), numbers(by_hand[k]), DType::f32).units, 16) << k;
  }
}

}  // namespace
}  // namespace flame
