// Optimizers and clipping against PyTorch's numbers (tools/golden_optim.py).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/optim_formulas.h"

namespace flame {
namespace {

using namespace test;
using optim::Adam;
using optim::AdamW;
using optim::Optimizer;
using optim::SGD;
using Json = nlohmann::json;

const Json& golden() {
  static const Json all = Json::parse(std::ifstream(FLAME_SOURCE_DIR "/tests/golden/optim.json"));
  return all;
}

double largest_error(const std::vector<double>& got, const Json& expected) {
  EXPECT_EQ(got.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
    const double e = expected[i].get<double>();
    worst = std::max(worst, std::abs(got[i] - e) / std::max(1.0, std::abs(e)));
    if (std::isnan(got[i])) worst = INFINITY;
  }
  return worst;
}

struct Case {
  std::string name;
  std::function<Optimizer(const std::vector<Parameter>&)> make;
  std::function<bool(size_t k, size_t step)> absent = [](size_t, size_t) { return false; };
  optim::Schedule schedule = {};
};

std::vector<Case> cases() {
  using P = const std::vector<Parameter>&;
  const auto some = [](P p, size_t from, size_t to) {
    return std::vector<Parameter>(p.begin() + long(from), p.begin() + long(to));
  };
  const optim::OneCycle cycle{.max_lr = 0.05, .total_steps = 11, .cycle_momentum = true};
  std::vector<Case> out;
  out.push_back({.name = "sgd", .make = [](P p) { return SGD(p, {.lr = 0.1}); }});
  out.push_back({.name = "sgd_decay", .make = [](P p) { return SGD(p, {.lr = 0.1, .weight_decay = 0.05}); }});
  out.push_back({.name = "sgd_momentum", .make = [](P p) { return SGD(p, {.lr = 0.05, .momentum = 0.9}); }});
  out.push_back({.name = "sgd_dampening", .make = [](P p) {
                   return SGD(p, {.lr = 0.05, .momentum = 0.8, .dampening = 0.3, .weight_decay = 0.01});
                 }});
  out.push_back({.name = "sgd_nesterov", .make = [](P p) {
                   return SGD(p, {.lr = 0.05, .momentum = 0.9, .weight_decay = 0.01, .nesterov = true});
                 }});
  out.push_back({.name = "adamw", .make = [](P p) { return AdamW(p, {.lr = 1e-2}); }});
  out.push_back({.name = "adamw_options", .make = [](P p) {
                   return AdamW(p, {.lr = 3e-2, .betas = {0.8, 0.97}, .eps = 1e-6, .weight_decay = 0.2});
                 }});
  out.push_back({.name = "adamw_small_beta", .make = [](P p) { return AdamW(p, {.lr = 1e-2, .betas = {0.3, 0.9}}); }});
  out.push_back({.name = "adam", .make = [](P p) { return Adam(p, {.lr = 1e-2}); }});
  out.push_back({.name = "adam_l2", .make = [](P p) { return Adam(p, {.lr = 1e-2, .weight_decay = 0.1}); }});
  out.push_back({.name = "adamw_groups", .make = [some](P p) {
                   return AdamW({{.parameters = some(p, 0, 1), .options = {.lr = 0.05, .weight_decay = 0}},
                                 {.parameters = some(p, 1, 3), .options = {.lr = 0.01, .weight_decay = 0.1}}});
                 }});
  out.push_back({.name = "sgd_groups", .make = [some](P p) {
                   return SGD({{.parameters = some(p, 0, 2), .options = {.lr = 0.05, .momentum = 0.9}},
                               {.parameters = some(p, 2, 3), .options = {.lr = 0.1}}});
                 }});
  out.push_back({.name = "adamw_absent",
                 .make = [](P p) { return AdamW(p, {.lr = 1e-2}); },
                 .absent = [](size_t k, size_t step) { return k == 1 && step % 3 != 1; }});
  out.push_back({.name = "sgd_absent",
                 .make = [](P p) { return SGD(p, {.lr = 0.05, .momentum = 0.9}); },
                 .absent = [](size_t k, size_t step) { return k == 1 && step < 4; }});
  out.push_back({.name = "adamw_one_cycle", .make = [](P p) { return AdamW(p, {.lr = 1}); }, .schedule = cycle});
  out.push_back(
      {.name = "sgd_one_cycle", .make = [](P p) { return SGD(p, {.lr = 1, .momentum = 0.9}); }, .schedule = cycle});
  return out;
}

double worst_of(const Case& c, DType t) {
  const Json& expected = golden()["optimizers"][c.name][std::string(name_of(t))];
  const std::vector<Parameter> params = starts(t);
  Optimizer opt = c.make(params);
  if (c.schedule.defined()) opt.set_schedule(c.schedule);
  double worst = 0;
  for (size_t step = 0; step < 10; ++step) {
    for (size_t k = 0; k < params.size(); ++k)
      if (!c.absent(k, step)) params[k].set_grad(gradient(k, step, t));
    opt.step();
    if (const std::string key = std::to_string(step + 1); expected.contains(key))
      worst = std::max(worst, largest_error(values(params), expected[key]));
  }
  EXPECT_EQ(opt.step_count(), 10);
  return worst;
}

TEST(Optim, GoldenNumbers) {
  EXPECT_EQ(golden()["optimizers"].size(), cases().size());
  for (const DType t : {DType::f32, DType::f64}) {
    const double tolerance = t == DType::f32 ? 2.4e-7 : 4.5e-16;  // PyTorch contracts some of its multiply-adds
    double worst = 0;
    for (const Case& c : cases()) {
      SCOPED_TRACE(c.name + " " + std::string(name_of(t)));
      const double e = worst_of(c, t);
      EXPECT_LE(e, tolerance);
      worst = std::max(worst, e);
    }
    RecordProperty("largest_error_" + std::string(name_of(t)), std::to_string(worst));
    std::printf("  largest error against PyTorch, %s: %.3g\n", std::string(name_of(t)).c_str(), worst);
  }
}

TEST(Clip, GoldenNumbers) {
  for (const DType t : {DType::f32, DType::f64})
    for (const auto& [size, norm, limit] : {std::tuple{"small", 1.5, 0.5}, std::tuple{"large", 1e4, 100.0}}) {
      SCOPED_TRACE(std::string(name_of(t)) + " " + size);
      const double tolerance = t == DType::f32 ? 2.4e-7 : 4.5e-16;  // PyTorch contracts some of its multiply-adds
      const Json& expected = golden()["clip"][std::string(name_of(t))][size];
      const std::vector<Parameter> params = starts(t);
      set_gradients(params, 3, t);
      const Tensor total = optim::clip_grad_norm(params, norm);
      EXPECT_EQ(total.dtype(), t);
      EXPECT_LE(largest_error({total.item()}, Json::array({expected["norm"]})), tolerance);
      EXPECT_LE(largest_error(gradients(params), expected["scaled"]), tolerance);
      set_gradients(params, 3, t);
      optim::clip_grad_value(params, limit);
      EXPECT_EQ(largest_error(gradients(params), expected["clamped"]), 0);
    }
}

}  // namespace
}  // namespace flame
