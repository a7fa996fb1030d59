// The one table of tolerances: how far a result may be from float64, in roundings of its dtype at the largest expected
// magnitude. An entry is at most 4 times what is seen (registry_test checks it); ops not named keep to the first row.
#pragma once
#include <string_view>

#include "flame/core/dtype.h"

namespace flame::test {

struct Seen {
  double value = 0, gradient = 0;
};
using Allowed = Seen;

struct Tolerance {
  std::string_view op;
  Allowed f64, f32, f16, bf16;
};
// A correctly rounded result is within 1.
inline constexpr Tolerance tolerances[] = {
    {"", {4, 4}, {4, 4}, {2, 2}, {2, 2}},
#include "tests/support/tolerances.def"
};

// Norms and cross entropy of rows of every length on a GPU, whose gradients of weights are sums over all rows.
inline constexpr Tolerance long_rows = {"", {20, 20}, {10, 100}, {2, 2}, {2, 2}};

constexpr const Tolerance& tolerance_of(std::string_view op) {
  for (const Tolerance& t : tolerances)
    if (t.op == op) return t;
  return tolerances[0];
}
constexpr Allowed allowed_error(const Tolerance& row, DType t) {
  return t == DType::f64 ? row.f64 : t == DType::f32 ? row.f32 : t == DType::f16 ? row.f16 : row.bf16;
}
constexpr Allowed allowed_error(std::string_view op, DType t) { return allowed_error(tolerance_of(op), t); }

// How much a rounding of the mean of equal numbers grows: it is divided by sqrt(eps), or by a deviation that should be 0;
// or, where keys are equal, it is all that is left of a gradient.
constexpr double condition_of_equal_numbers(std::string_view op) {
  constexpr std::string_view norms[] = {"batch_norm", "layer_norm", "group_norm", "instance_norm"};
  for (std::string_view norm : norms)
    if (op == norm) return 400;
  return op == "std" || op == "std_mean" ? 1e8 : op == "scaled_dot_product_attention" ? 20 : 1;
}

}  // namespace flame::test
