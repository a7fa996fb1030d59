// Learning-rate schedules against torch.optim.lr_scheduler's numbers (tools/golden_optim.py).
#include <gtest/gtest.h>

#include <set>

#include "tests/support/optim_cases.h"

namespace flame::optim {
namespace {

using Json = nlohmann::json;

std::set<std::string> compared;

void expect_golden(const char* name, const Schedule& s, bool momentum = false) {
  compared.insert(name);
  const Json& expected = test::optim_golden()["schedules"][name];
  const auto lr = expected["lr"].get<std::vector<double>>();
  ASSERT_FALSE(lr.empty());
  for (size_t i = 0; i < lr.size(); ++i) {
    const int64_t step = static_cast<int64_t>(i);
    EXPECT_NEAR(s.at(step), lr[i], 1e-15) << name << " at " << i;
    if (!momentum) EXPECT_FALSE(s.momentum_at(step).has_value());
    else EXPECT_NEAR(s.momentum_at(step).value(), expected["momentum"][i].get<double>(), 1e-15) << name << " at " << i;
  }
}

TEST(Schedule, GoldenNumbers) {
  expect_golden("constant", ConstantLR{.lr = 0.1});
  expect_golden("cosine", CosineAnnealing{.lr = 0.1, .steps = 20});
  expect_golden("cosine_eta_min", CosineAnnealing{.lr = 0.1, .steps = 7, .eta_min = 0.01});
  expect_golden("one_cycle", OneCycle{.max_lr = 0.4, .total_steps = 30});
  expect_golden("one_cycle", OneCycle{.max_lr = 0.4, .total_steps = 30, .cycle_momentum = true}, true);
  expect_golden("one_cycle_linear",
                OneCycle{.max_lr = 0.2,
                         .total_steps = 23,
                         .pct_start = 0.45,
                         .anneal = Anneal::linear,
                         .div_factor = 10,
                         .final_div_factor = 100,
                         .cycle_momentum = true,
                         .base_momentum = 0.8,
                         .max_momentum = 0.9},
                true);
  expect_golden("warmup_cosine",
                LinearWarmup{.steps = 5, .start_factor = 0.1, .then = CosineAnnealing{.lr = 0.1, .steps = 15}});
}

TEST(Schedule, GoldenNumbersOfAHundredSteps) {
  expect_golden("lambda",
                LambdaLR{.lr = 0.1, .factor = [](int64_t n) { return 1 / (1 + 0.05 * static_cast<double>(n)); }});
  expect_golden("multiplicative",
                MultiplicativeLR(0.1, [](int64_t n) { return 0.99 - 0.001 * static_cast<double>(n % 7); }));
  expect_golden("step", StepLR{.lr = 0.1, .step_size = 7, .gamma = 0.6});
  expect_golden("multi_step", MultiStepLR{.lr = 0.1, .milestones = {10, 40, 40, 90}, .gamma = 0.3});
  expect_golden("constant_factor", ConstantLR{.lr = 0.1, .factor = 0.25, .steps = 33});
  expect_golden("linear", LinearLR{.lr = 0.1, .start_factor = 0.2, .end_factor = 0.9, .steps = 60});
  expect_golden("linear_default", LinearLR{.lr = 0.1});
  expect_golden("exponential", ExponentialLR{.lr = 0.1, .gamma = 0.97});
  expect_golden("polynomial", PolynomialLR{.lr = 0.1, .steps = 70, .power = 1.7});
  expect_golden("cosine_100", CosineAnnealing{.lr = 0.1, .steps = 99, .eta_min = 0.003});
  expect_golden("restarts", CosineAnnealingWarmRestarts{.lr = 0.1, .first_steps = 11, .eta_min = 0.002});
  expect_golden("restarts_longer", CosineAnnealingWarmRestarts{.lr = 0.1, .first_steps = 6, .factor = 2});
  expect_golden("cyclic",
                CyclicLR{.base_lr = 0.01, .max_lr = 0.2, .steps_up = 9, .steps_down = 14, .cycle_momentum = true},
                true);
  expect_golden(
      "cyclic_triangular2",
      CyclicLR{.base_lr = 0.01, .max_lr = 0.2, .steps_up = 8, .mode = CycleMode::triangular2, .cycle_momentum = true},
      true);
  expect_golden("cyclic_exp_range",
                CyclicLR{.base_lr = 0.01,
                         .max_lr = 0.2,
                         .steps_up = 10,
                         .steps_down = 5,
                         .mode = CycleMode::exp_range,
                         .gamma = 0.98,
                         .cycle_momentum = true,
                         .base_momentum = 0.7,
                         .max_momentum = 0.95},
                true);
  expect_golden("cyclic_own", CyclicLR{.base_lr = 0.01, .max_lr = 0.2, .steps_up = 10, .scale = [](int64_t n) {
                                         return 1 / static_cast<double>(n);
                                       }});
  expect_golden("one_cycle_100", OneCycle{.max_lr = 0.4, .total_steps = 101, .pct_start = 0.2, .cycle_momentum = true},
                true);
  expect_golden("chained", ChainedScheduler{.lr = 0.1,
                                            .factors = {ConstantLR{.lr = 1, .factor = 0.1, .steps = 20},
                                                        ExponentialLR{.lr = 1, .gamma = 0.98}}});
  expect_golden("sequential", SequentialLR{.schedules = {LinearLR{.lr = 0.1, .start_factor = 0.1, .steps = 10},
                                                         CosineAnnealing{.lr = 0.1, .steps = 40},
                                                         ExponentialLR{.lr = 0.1, .gamma = 0.9}},
                                           .milestones = {10, 50}});
}

// What ReduceLROnPlateau is shown at each step.
double metric(int64_t step) {
  return 2.0 / static_cast<double>(1 + std::min<int64_t>(step, 25)) + 0.01 * static_cast<double>(step * 7 % 5);
}
const PlateauOptions lower{.factor = 0.3, .patience = 3, .cooldown = 2, .min_lr = {1e-3}};

TEST(Schedule, PlateauGoldenNumbers) {
  const PlateauOptions higher{.better = Better::higher,
                              .factor = 0.5,
                              .patience = 4,
                              .threshold = 0.05,
                              .threshold_mode = Threshold::absolute,
                              .eps = 1e-4};
  for (const auto& [name, options, sign] : {std::tuple("plateau", lower, 1.0), {"plateau_max", higher, -1.0}}) {
    compared.insert(name);
    SGD opt({Parameter(zeros({1}))}, {.lr = 0.1});
    ReduceLROnPlateau plateau(opt, options);
    const auto rates = test::optim_golden()["schedules"][name]["lr"].get<std::vector<double>>();
    ASSERT_EQ(rates.size(), 100u);
    for (int64_t step = 0; step < 100; ++step) {
      ASSERT_NEAR(opt.lr(), rates[static_cast<size_t>(step)], 1e-16) << name << " at " << step;
      plateau.step(sign * metric(step));
    }
    EXPECT_LT(rates.back(), 0.02);
  }
}

TEST(Schedule, EveryGoldenOneIsCompared) {
  if (compared.empty()) GTEST_SKIP() << "the comparisons were not chosen to run";
  for (const auto& [name, numbers] : test::optim_golden()["schedules"].items())
    EXPECT_TRUE(compared.count(name)) << name;
}

TEST(Schedule, PlateauResumesAndKeepsLeastRates) {
  const auto make = [] {
    return SGD({{.parameters = {Parameter(zeros({1}))}, .options = {.lr = 0.1}},
                {.parameters = {Parameter(zeros({1}))}, .options = {.lr = 0.5}}});
  };
  PlateauOptions o = lower;
  o.min_lr = {0.02, 0.3};
  SGD whole = make(), before = make(), after = make();
  ReduceLROnPlateau a(whole, o), b(before, o), c(after, o);
  for (int64_t step = 0; step < 100; ++step) a.step(metric(step));
  EXPECT_EQ(whole.lr(0), 0.02);
  EXPECT_EQ(whole.lr(1), 0.3);
  for (int64_t step = 0; step < 31; ++step) b.step(metric(step));
  const auto saved = b.state_dict();
  c.load_state(saved);
  after.load_state(before.state_dict());
  for (int64_t step = 31; step < 60; ++step) {
    b.step(metric(step));
    c.step(metric(step));
    EXPECT_EQ(c.best(), b.best());
    EXPECT_EQ(after.lr(0), before.lr(0));
    EXPECT_EQ(after.lr(1), before.lr(1));
  }
  c.step(NAN);
  EXPECT_EQ(c.best(), b.best());
}

TEST(Schedule, GroupsHaveTheirOwn) {
  const Parameter p(zeros({1})), q(zeros({1}));
  SGD opt({{.parameters = {p}, .options = {.lr = 1}}, {.parameters = {q}, .options = {.lr = 0.5}}});
  opt.set_schedule(1, StepLR{.lr = 0.25, .step_size = 2, .gamma = 0.5});
  for (const double rate : {0.25, 0.25, 0.125, 0.125, 0.0625}) {
    EXPECT_EQ(opt.lr(0), 1);
    EXPECT_EQ(opt.lr(1), rate);
    opt.step();
  }
}

TEST(Schedule, MultiplicativeCallsOnceAStep) {
  int calls = 0;
  const MultiplicativeLR s(1, [&](int64_t) { return ++calls, 0.5; });
  for (int64_t step = 0; step < 10; ++step) s.at(step);
  EXPECT_EQ(s.at(3), 0.125);
  EXPECT_EQ(calls, 9);
}

TEST(Schedule, HoldsItsEnd) {
  const CosineAnnealing cosine{.lr = 1, .steps = 4, .eta_min = 0.25};
  EXPECT_EQ(cosine.at(4), 0.25);
  EXPECT_EQ(cosine.at(400), 0.25);
  const OneCycle cycle{.max_lr = 1, .total_steps = 10};
  EXPECT_EQ(cycle.at(9), cycle.at(1000));
  EXPECT_NEAR(cycle.at(9), 1 / 25.0 / 1e4, 1e-12);
}

TEST(Schedule, ShortCycles) {
  for (const double start : {0.0, 0.3, 1.0})
    for (const int64_t total : {1, 2, 3}) {
      const OneCycle cycle{.max_lr = 1, .total_steps = total, .pct_start = start};
      for (int64_t step = 0; step <= total; ++step) {
        EXPECT_GE(cycle.at(step), 0) << start << " " << total << " " << step;
        EXPECT_LE(cycle.at(step), 1) << start << " " << total << " " << step;
      }
    }
}

TEST(Schedule, OwnFunctions) {
  const Schedule halves = [](int64_t step) { return 1.0 / static_cast<double>(int64_t{1} << step); };
  EXPECT_EQ(halves.at(3), 0.125);
  EXPECT_FALSE(Schedule{}.defined());
}

template <class F>
std::string message(F&& fn) {
  try {
    fn();
  } catch (const ValueError& e) {
    const std::string text = e.what();
    return text.substr(0, text.rfind(" (at "));  // the place is the error's own line
  }
  return "nothing was thrown";
}

TEST(Schedule, Errors) {
  EXPECT_EQ(message([] { Schedule s = CosineAnnealing{.lr = 0.1, .steps = 0}; }),
            "CosineAnnealing: expected 1 step or more, got 0");
  EXPECT_EQ(message([] { Schedule s = OneCycle{.max_lr = 0.1, .total_steps = 9, .pct_start = 1.5}; }),
            "OneCycle: expected pct_start in [0, 1], got 1.5");
  EXPECT_EQ(message([] { Schedule s = ConstantLR{.lr = -1}; }), "ConstantLR: expected lr of 0 or more, got -1");
  EXPECT_EQ(message([] { Schedule s = LinearWarmup{.steps = 3}; }),
            "LinearWarmup: expected a schedule in `then`, got none");
  EXPECT_EQ(message([] { Schedule s = ConstantLR{.lr = 1, .factor = -1}; }),
            "ConstantLR: expected factor of 0 or more, got -1");
  EXPECT_EQ(message([] { Schedule s = ConstantLR{.lr = 1, .steps = -1}; }),
            "ConstantLR: expected 0 steps or more, got -1");
  EXPECT_EQ(message([] { Schedule s = LambdaLR{.lr = 1}; }), "LambdaLR: expected a function in `factor`, got none");
  EXPECT_EQ(message([] { Schedule s = MultiplicativeLR(1, {}); }),
            "MultiplicativeLR: expected a function as factor, got none");
  EXPECT_EQ(message([] { Schedule s = StepLR{.lr = 1, .step_size = 0}; }),
            "StepLR: expected step_size of 1 or more, got 0");
  EXPECT_EQ(message([] {
              Schedule s = MultiStepLR{.lr = 1, .milestones = {3, 2}};
            }),
            "MultiStepLR: expected milestones in order, got [3, 2]");
  EXPECT_EQ(message([] { Schedule s = LinearLR{.lr = 1, .steps = 0}; }), "LinearLR: expected 1 step or more, got 0");
  EXPECT_EQ(message([] { Schedule s = ExponentialLR{.lr = 1, .gamma = NAN}; }),
            "ExponentialLR: expected gamma of 0 or more, got nan");
  EXPECT_EQ(message([] { Schedule s = PolynomialLR{.lr = INFINITY}; }),
            "PolynomialLR: expected lr of 0 or more, got inf");
  EXPECT_EQ(message([] { Schedule s = CosineAnnealingWarmRestarts{.lr = 1, .first_steps = 2, .factor = 0}; }),
            "CosineAnnealingWarmRestarts: expected a factor of 1 or more, got 0");
  EXPECT_EQ(message([] { Schedule s = CyclicLR{.base_lr = 0.1, .max_lr = 1, .base_momentum = 0.95}; }),
            "CyclicLR: expected 0 <= base_momentum <= max_momentum < 1, got 0.95 and 0.9");
  EXPECT_EQ(message([] { Schedule s = CyclicLR{.base_lr = 0.1, .max_lr = 1, .steps_down = 0}; }),
            "CyclicLR: expected 1 step or more, got 0");
  EXPECT_EQ(message([] { Schedule s = ChainedScheduler{.lr = 1}; }),
            "ChainedScheduler: expected one schedule or more, got none");
  EXPECT_EQ(message([] { Schedule s = ChainedScheduler{.lr = 1, .factors = {Schedule{}}}; }),
            "ChainedScheduler: expected defined schedules, got an undefined one");
  EXPECT_EQ(message([] { Schedule s = SequentialLR{.schedules = {ConstantLR{.lr = 1}}, .milestones = {3}}; }),
            "SequentialLR: expected one milestone fewer than schedules, got 1 and 1");
  const Schedule one = ConstantLR{.lr = 1};
  EXPECT_EQ(message([&] {
              Schedule s = SequentialLR{.schedules = {one, one, one}, .milestones = {5, 5}};
            }),
            "SequentialLR: expected rising milestones, got [5, 5]");
}

TEST(Schedule, PlateauErrors) {
  SGD opt({Parameter(zeros({1}))});
  EXPECT_EQ(message([&] { ReduceLROnPlateau(opt, {.factor = 1}); }),
            "ReduceLROnPlateau: expected a factor in [0, 1), got 1");
  EXPECT_EQ(message([&] { ReduceLROnPlateau(opt, {.patience = -1}); }),
            "ReduceLROnPlateau: expected patience and cooldown of 0 or more, got -1 and 0");
  EXPECT_EQ(message([&] { ReduceLROnPlateau(opt, {.threshold = -1}); }),
            "ReduceLROnPlateau: expected a threshold of 0 or more, got -1");
  EXPECT_EQ(message([&] {
              ReduceLROnPlateau(opt, {.min_lr = {0, 0}});
            }),
            "ReduceLROnPlateau: expected 1 or 1 min_lr, got 2");
  ReduceLROnPlateau plateau(opt);
  EXPECT_EQ(message([&] { plateau.load_state({}); }),
            "ReduceLROnPlateau: load_state expected the entry 'plateau' alone, got 0 entries");
  EXPECT_THROW(plateau.load_state({{"plateau", zeros({2}, DType::f64)}}), ShapeError);
  EXPECT_THROW(plateau.load_state({{"plateau", zeros({3})}}), DTypeError);
  EXPECT_THROW(plateau.load_state({{"plateau", full({3}, -1, DType::f64)}}), ValueError);
}

}  // namespace
}  // namespace flame::optim
