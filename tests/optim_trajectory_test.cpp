// Every optimizer over two groups for 20 steps against PyTorch (Lion and Adafactor's absolute steps: plain code by
// their papers). The measure is PyTorch's own rounding: its float32 run against its float64 run.
#include <gtest/gtest.h>

#include "tests/support/optim_cases.h"

namespace flame {
namespace {

using namespace test;
using Json = nlohmann::json;

double largest_error(const std::vector<double>& got, const std::vector<double>& want) {
  EXPECT_EQ(got.size(), want.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    const double e = std::abs(got[i] - want[i]) / std::max(1.0, std::abs(want[i]));
    worst = std::isnan(e) ? INFINITY : std::max(worst, e);
  }
  return worst;
}

struct Errors {
  double flame = 0, torch = 0;  // in roundings: against PyTorch's float64; PyTorch's float32 against it
};
Errors run(const OptimCase& c, DType t) {
  const Json& golden = optim_golden()["trajectories"][c.name];
  const Parameters params = optim_starts(t);
  optim::Optimizer opt = c.make(params);
  Errors e;
  size_t compared = 0;
  for (size_t step = 0; step < 20; ++step) {
    set_gradients(params, step);
    opt.step();
    const std::string key = std::to_string(step + 1);
    if (!golden["float64"].contains(key)) continue;
    const auto exact = golden["float64"][key].get<std::vector<double>>();
    const auto rounded = golden["float32"][key].get<std::vector<double>>();
    e.flame = std::max(e.flame, largest_error(all_numbers(params), exact) / rounding(t));
    e.torch = std::max(e.torch, largest_error(rounded, exact) / rounding(DType::f32));
    ++compared;
  }
  EXPECT_EQ(compared, 3u);
  return e;
}

TEST(OptimTrajectories, AreWithinPyTorchsOwnRounding) {
  EXPECT_EQ(optim_golden()["trajectories"].size(), optim_cases().size());
  for (const OptimCase& c : optim_cases())
    for (const DType t : {DType::f32, DType::f64}) {
      const Errors e = run(c, t);
      EXPECT_LE(e.flame, 2 * e.torch) << c.name << " " << name_of(t);
      std::printf("  %-26s %s: %.2f roundings (PyTorch's float32: %.2f)\n", c.name, std::string(name_of(t)).c_str(),
                  e.flame, e.torch);
    }
}

// The comparison must tell a changed option apart.
TEST(OptimTrajectories, ToldApartFromOtherOptions) {
  using namespace optim;
  const std::vector<OptimCase> wrong = {
      {"adamw", two_groups<AdamWOptions>({.lr = 0.03}, {.lr = 0.01, .betas = {0.3, 0.9}, .weight_decay = 0.1001})},
      {"lion", two_groups<LionOptions>({.lr = 0.02}, {.lr = 0.01, .betas = {0.81, 0.9}, .weight_decay = 0.3})},
      {"adam_amsgrad", two_groups<AdamOptions>({.lr = 0.03}, {.lr = 0.01, .weight_decay = 0.1})},
      {"adafactor", two_groups<AdafactorOptions>({.lr = 0.3}, {.lr = 0.1, .beta2_decay = -0.5, .weight_decay = 0.05})},
      {"maximize", two_groups<AdamWOptions>({.lr = 0.03}, {.lr = 0.01})},
  };
  for (const OptimCase& c : wrong) {
    const Errors e = run(c, DType::f32);
    EXPECT_GT(e.flame, 10 * e.torch) << c.name;
  }
}

}  // namespace
}  // namespace flame
