// Registers the reductions with sample inputs: every layout and size, several sets of axes, with and without keepdim.
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

using Fn = Tensor (*)(const Tensor& x, const Axes& axes, bool keepdim);
struct Row {
  const char *name, *signature, *formula;
  bool differentiable;
  bool takes_empty;
  Fn fn;
};
#define FLAME_REDUCTION(name) [](const Tensor& x, const Axes& a, bool k) { return name(x, a, k); }
const Row rows[] = {
    {"sum", "sum(x, axes, keepdim)", "sum of x", true, true, FLAME_REDUCTION(sum)},
    {"prod", "prod(x, axes, keepdim)", "product of x", true, true, FLAME_REDUCTION(prod)},
    {"mean", "mean(x, axes, keepdim)", "sum of x / n", true, false, FLAME_REDUCTION(mean)},
    {"amax", "amax(x, axes, keepdim)", "largest x, NaN first", true, false, FLAME_REDUCTION(amax)},
    {"amin", "amin(x, axes, keepdim)", "smallest x, NaN first", true, false, FLAME_REDUCTION(amin)},
    {"var", "var(x, axes, {.correction, .keepdim})", "sum of (x - mean)^2 / (n - correction)", true, false,
     [](const Tensor& x, const Axes& a, bool k) { return var(x, a, {.correction = 0, .keepdim = k}); }},
    {"std", "std(x, axes, {.correction, .keepdim})", "sqrt(var(x))", true, false,
     [](const Tensor& x, const Axes& a, bool k) { return std(x, a, {.correction = 0, .keepdim = k}); }},
    {"norm", "norm(x, axes, keepdim)", "sqrt(sum of x^2)", true, false, FLAME_REDUCTION(norm)},
    {"logsumexp", "logsumexp(x, axes, keepdim)", "ln(sum of e^x)", true, false, FLAME_REDUCTION(logsumexp)},
    {"any", "any(x, axes, keepdim)", "some x is not 0", false, true, FLAME_REDUCTION(any)},
    {"all", "all(x, axes, keepdim)", "no x is 0", false, true, FLAME_REDUCTION(all)},
    {"argmax", "argmax(x, axes, keepdim)", "place of the largest x", false, false, FLAME_REDUCTION(argmax)},
    {"argmin", "argmin(x, axes, keepdim)", "place of the smallest x", false, false, FLAME_REDUCTION(argmin)},
};
#undef FLAME_REDUCTION

std::vector<SampleCase> samples_of(const Row& row, DType t) {
  std::vector<SampleCase> out;
  const auto add_case = [&](const char* label, const Tensor& x, const Axes& axes, bool keepdim) {
    out.push_back({{x},
                   [fn = row.fn, axes, keepdim](const std::vector<Tensor>& in) {
                     return std::vector<Tensor>{fn(in[0], axes, keepdim)};
                   },
                   label,
                   -1});
  };
  // Away from 0, where norm has a kink, and for products of moderate size.
  constexpr double lo = 0.4, hi = 1.9;
  const Tensor x = samples::uniform({2, 3, 5}, t, 1, lo, hi);
  add_case("all axes", x, {}, false);
  add_case("all axes, keepdim", x, {}, true);
  add_case("last axis", x, -1, false);
  add_case("first axis", x, 0, true);
  add_case("middle axis", x, 1, false);
  add_case("outer axes", x, {0, 2}, false);
  add_case("axes out of order", x, {2, -3}, true);
  add_case("ragged", samples::uniform({3, 67}, t, 2, lo, hi), 1, false);
  add_case("ragged columns", samples::uniform({35, 3}, t, 3, lo, hi), 0, false);
  add_case("transposed", samples::transposed({4, 5}, t, 4, lo, hi), 1, false);
  add_case("offset and stride", samples::strided({3, 4}, t, 5, lo, hi), {0, 1}, false);
  if (std::string_view(row.name) == "amax" || std::string_view(row.name) == "amin" ||
      std::string_view(row.name) == "std")
    add_case("expanded", samples::uniform({1, 4}, t, 6, lo, hi).expand({3, 4}), 1,
             false);  // no ties, no deviation of 0
  else add_case("expanded", samples::uniform({4, 1}, t, 6, lo, hi).expand({4, 3}), {}, false);
  if (std::string_view(row.name) != "std") {
    add_case("rank 0", samples::uniform({}, t, 7, lo, hi), {}, false);
    add_case("one element", samples::uniform({1, 1}, t, 8, lo, hi), 0, false);
  }
  add_case("empty result", samples::uniform({0, 3}, t, 9, lo, hi), 1, false);
  if (row.takes_empty) add_case("nothing to reduce", samples::uniform({2, 0}, t, 10, lo, hi), 1, false);
  return out;
}

struct RegisterRows {
  RegisterRows() {
    for (const Row& row : rows)
      RegisterOp(
          {row.name, row.signature, row.formula, row.differentiable, [&row](DType t) { return samples_of(row, t); }});
  }
} const register_rows;

}  // namespace
}  // namespace flame
