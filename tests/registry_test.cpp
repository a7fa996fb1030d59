// Every op of the registry on every dtype, sample and layout. Prints the largest error per op and dtype.
#include <gtest/gtest.h>

#include "tests/support/chosen.h"
#include "tests/support/registry_loop.h"

namespace flame {
namespace {

using namespace test;

const LoopReport& whole_registry() {
  static const LoopReport report = [] {
    LoopReport r;
    RegistryLoop loop(r);
    for (const OpEntry& e : Registry::global().entries())
      if (chosen(e.name)) loop.run(e);
    return r;
  }();
  return report;
}

TEST(Registry, HasTheOpsOfThisSlice) {
  for (const char* name :
       {"add",        "mul",        "where",   "clamp",   "exp",         "relu",          "eq",
        "sum",        "mean",       "var",     "amax",    "argmax",      "matmul",        "conv2d",
        "max_pool2d", "avg_pool2d", "dropout", "softmax", "log_softmax", "cross_entropy", "batch_norm",
        "layer_norm", "cat",        "reshape", "permute", "expand",      "slice"})
    EXPECT_TRUE(Registry::global().find(name)) << name;
  for (const OpEntry& e : Registry::global().entries()) {
    EXPECT_FALSE(e.signature.empty()) << e.name;
    EXPECT_FALSE(e.formula.empty()) << e.name;
  }
}

TEST(Registry, EveryOpKeepsItsPromises) {
  const LoopReport& r = whole_registry();
  print_errors(r);
  size_t gaps = 0;
  for (const auto& [op, dtypes] : r.unsupported) {
    gaps += dtypes.size();
    for (DType t : dtypes)
      std::printf("not implemented: %s in %s\n", op.c_str(), std::string(flame::name_of(t)).c_str());
  }
  std::printf("%zu ops, %zu cases, %zu gradchecks, %zu gradgradchecks, %zu gaps\n", Registry::global().entries().size(),
              r.cases, r.gradchecks, r.gradgradchecks, gaps);
  EXPECT_TRUE(r.findings.empty()) << r.text();
  EXPECT_TRUE(r.gradchecks > 100u || !all_ops());
}

double rounded_up(double seen) {
  if (seen <= 1) return 1;
  for (double grid = 1;; grid *= 10)
    for (double step : {1.0, 1.5, 2.0, 3.0, 4.0, 6.0})
      if (grid * step >= seen * 1.5) return grid * step;
}

// A loose tolerance would hide a lost digit. FLAME_PRINT_TOLERANCES=1 prints the table anew from what is seen.
TEST(Registry, TolerancesAreAtMostFourTimesWhatIsSeen) {
  const LoopReport& r = whole_registry();
  for (const auto& [op, row] : r.seen) {
    if (std::getenv("FLAME_PRINT_TOLERANCES")) {
      std::printf("{\"%s\"", op.c_str());
      for (DType t : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
        const Seen s = row.contains(t) ? row.at(t) : Seen{};
        std::printf(", {%g, %g}", rounded_up(s.value), rounded_up(s.gradient));
      }
      std::printf("},\n");
    }
    if (quick() || tolerance_of(op).op != op) continue;
    for (const auto& [t, seen] : row) {
      const Allowed a = allowed_error(op, t);
      EXPECT_LE(a.value, std::max(4 * seen.value, 4.0)) << op << " value in " << name_of(t);
      EXPECT_LE(a.gradient, std::max(4 * seen.gradient, 4.0)) << op << " gradient in " << name_of(t);
    }
  }
  for (const Tolerance& t : tolerances)
    EXPECT_TRUE(t.op.empty() || Registry::global().find(t.op)) << t.op << " is no op";
}

}  // namespace
}  // namespace flame
