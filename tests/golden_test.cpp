// Ops against PyTorch's values and gradients in float32 and float64 and its second gradients in float64, special values
// included.
#include <gtest/gtest.h>

#include <set>

#include "flame/tensor/op.h"
#include "tests/support/chosen.h"
#include "tests/support/golden.h"

namespace flame {
namespace {

using namespace test;

std::string title(const Json& c, DType t) {
  return c["op"].get<std::string>() + " (" + c["label"].get<std::string>() + ", " + std::string(name_of(t)) + ")";
}

TEST(Golden, ValuesAndGradientsArePyTorchs) {
  std::map<std::string, std::pair<double, double>> worst;
  size_t checked = 0;
  for (const Json& c : golden_cases()) {
    if (!chosen(c["op"])) continue;
    const auto fn = golden_functions().find(c["op"]);
    if (fn == golden_functions().end()) {
      ADD_FAILURE() << "golden case of an unknown op " << c["op"];
      continue;
    }
    for (DType t : {DType::f64, DType::f32}) {
      try {
        const GoldenCheck r = check_golden(c, fn->second, t);
        EXPECT_TRUE(r.failure.empty()) << title(c, t) << ": " << r.failure;
        auto& [f64, f32] = worst[c["op"]];
        (t == DType::f64 ? f64 : f32) = std::max(t == DType::f64 ? f64 : f32, r.worst);
        ++checked;
      } catch (const std::exception& e) { ADD_FAILURE() << title(c, t) << ": " << e.what(); }
    }
  }
  std::printf("largest error in roundings, against PyTorch's float64: float64, float32\n");
  for (const auto& [op, e] : worst) std::printf("%-18s %9.3g %9.3g\n", op.c_str(), e.first, e.second);
  std::printf("%zu golden comparisons\n", checked);
  EXPECT_TRUE(checked > 900u || !all_ops());
}

TEST(Golden, EveryOpHasACase) {
  std::set<std::string> covered;
  for (const Json& c : golden_cases()) covered.insert(c["op"]);
  int missing = 0;
  for (const OpEntry& e : Registry::global().entries())
    if (chosen(e.name) && !covered.contains(e.name)) {
      std::printf("no golden case: %s\n", e.name.c_str());
      ++missing;
    }
  std::printf("missing = %d\n", missing);
  EXPECT_EQ(missing, 0);
}

// Where PyTorch has no second derivative the case says so in PyTorch's words.
TEST(Golden, EveryDifferentiableOpHasACaseOfItsSecondGradient) {
  std::set<std::string> first, second;
  std::map<std::string, std::string> undefined;
  size_t cases = 0;
  for (const Json& c : golden_cases()) {
    const std::string op = c["op"];
    for (const Json& g : c["gradients"])
      if (!g.is_null()) first.insert(op);
    if (GoldenRun::has_second(c)) second.insert(op), ++cases;
    else if (c.contains("second")) undefined[op] = c["second"];
  }
  int missing = 0;
  for (const OpEntry& e : Registry::global().entries()) {
    if (!chosen(e.name) || !first.contains(e.name) || second.contains(e.name)) continue;
    const auto why = undefined.find(e.name);
    std::printf("no second gradient: %s%s\n", e.name.c_str(),
                why == undefined.end() ? "" : (", PyTorch: " + why->second).c_str());
    missing += why == undefined.end();
  }
  std::printf("%zu cases of second gradients, missing = %d\n", cases, missing);
  EXPECT_EQ(missing, 0);
  EXPECT_GT(cases, 900u);
}

bool change(Json& tensor) {
  if (tensor.is_null() || tensor["data"].empty()) return false;
  Json& one = tensor["data"][tensor["data"].size() / 2];
  if (one.is_boolean()) one = !one.get<bool>();
  else if (one.is_string()) one = 1.0;
  else one = one.get<double>() + std::max(1.0, std::abs(one.get<double>())) * 1e-4;
  return true;
}

// A fixture that is off by little in one place must not pass: one output or gradient of every op, in turn.
TEST(Golden, OneChangedNumberIsSeen) {
  std::set<std::string> tried;
  for (const Json& c : golden_cases()) {
    if (!chosen(c["op"]) || c["outputs"][0]["data"].empty() || !tried.insert(c["op"]).second) continue;
    const GoldenFn& fn = golden_functions().at(c["op"]);
    for (const char* part : {"outputs", "gradients"}) {
      for (size_t i = 0; i < c[part].size(); ++i) {
        Json changed = c;
        if (!change(changed[part][i])) continue;
        EXPECT_FALSE(check_golden(changed, fn, DType::f64).failure.empty())
            << title(c, DType::f64) << ", " << part << " " << i;
        if (c.contains("outputs32") ||
            c[part == std::string("outputs") ? "float32_error" : "float32_gradient_error"][i].is_null())
          continue;
        EXPECT_FALSE(check_golden(changed, fn, DType::f32).failure.empty())
            << title(c, DType::f32) << ", " << part << " " << i;
      }
    }
    for (const char* kind : {"inputs", "incoming"}) {
      for (size_t i = 0; GoldenRun::has_second(c) && i < c["second"][kind].size(); ++i) {
        Json changed = c;
        if (!change(changed["second"][kind][i])) continue;
        EXPECT_FALSE(check_golden(changed, fn, DType::f64).failure.empty())
            << title(c, DType::f64) << ", second gradient, " << kind << " " << i;
      }
    }
  }
  EXPECT_TRUE(tried.size() > 60u || !all_ops());
}

}  // namespace
}  // namespace flame
