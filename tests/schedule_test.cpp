// Learning-rate schedules against torch.optim.lr_scheduler's numbers (tools/golden_optim.py).
#include "flame/optim/schedule.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

namespace flame::optim {
namespace {

using Json = nlohmann::json;

void expect_golden(const char* name, const Schedule& s, bool momentum = false) {
  const Json all = Json::parse(std::ifstream(FLAME_SOURCE_DIR "/tests/golden/optim.json"));
  const Json& expected = all["schedules"][name];
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
}

}  // namespace
}  // namespace flame::optim
