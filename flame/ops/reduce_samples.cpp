// Registers the reductions with sample inputs: every layout and size, several sets of axes, with and without keepdim.
#include <limits>

#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

using Outputs = std::vector<Tensor>;
using Fn = Outputs (*)(const Tensor& x, const Axes& axes, bool keepdim);
struct Row {
  const char *name, *signature, *formula;
  bool differentiable;
  bool takes_empty;
  Fn fn;
};
#define FLAME_REDUCTION(name) [](const Tensor& x, const Axes& a, bool k) { return Outputs{name(x, a, k)}; }
const Row rows[] = {
    {"sum", "sum(x, axes, keepdim)", "sum of x", true, true, FLAME_REDUCTION(sum)},
    {"prod", "prod(x, axes, keepdim)", "product of x", true, true, FLAME_REDUCTION(prod)},
    {"mean", "mean(x, axes, keepdim)", "sum of x / n", true, false, FLAME_REDUCTION(mean)},
    {"amax", "amax(x, axes, keepdim)", "largest x, NaN first", true, false, FLAME_REDUCTION(amax)},
    {"amin", "amin(x, axes, keepdim)", "smallest x, NaN first", true, false, FLAME_REDUCTION(amin)},
    {"var", "var(x, axes, {.correction, .keepdim})", "sum of (x - mean)^2 / (n - correction)", true, false,
     [](const Tensor& x, const Axes& a, bool k) { return Outputs{var(x, a, {.correction = 0, .keepdim = k})}; }},
    {"std", "std(x, axes, {.correction, .keepdim})", "sqrt(var(x))", true, false,
     [](const Tensor& x, const Axes& a, bool k) { return Outputs{std(x, a, {.correction = 0, .keepdim = k})}; }},
    {"norm", "norm(x, axes, {.p, .keepdim})", "(sum of |x|^p)^(1/p)", true, false, FLAME_REDUCTION(norm)},
    {"var_mean", "var_mean(x, axes, {.correction, .keepdim})", "var(x) and mean(x)", true, false,
     [](const Tensor& x, const Axes& a, bool k) {
       const auto [var, mean] = var_mean(x, a, {.correction = 0, .keepdim = k});
       return Outputs{var, mean};
     }},
    {"std_mean", "std_mean(x, axes, {.correction, .keepdim})", "std(x) and mean(x)", true, false,
     [](const Tensor& x, const Axes& a, bool k) {
       const auto [std, mean] = std_mean(x, a, {.correction = 0, .keepdim = k});
       return Outputs{std, mean};
     }},
    {"aminmax", "aminmax(x, axes, keepdim)", "amin(x) and amax(x)", true, false,
     [](const Tensor& x, const Axes& a, bool k) {
       const auto [min, max] = aminmax(x, a, k);
       return Outputs{min, max};
     }},
    {"nansum", "nansum(x, axes, keepdim)", "sum of the x that are not NaN", true, true, FLAME_REDUCTION(nansum)},
    {"nanmean", "nanmean(x, axes, keepdim)", "mean of the x that are not NaN", true, false, FLAME_REDUCTION(nanmean)},
    {"count_nonzero", "count_nonzero(x, axes, keepdim)", "how many x are not 0", false, true,
     FLAME_REDUCTION(count_nonzero)},
    {"logsumexp", "logsumexp(x, axes, keepdim)", "ln(sum of e^x)", true, false, FLAME_REDUCTION(logsumexp)},
    {"any", "any(x, axes, keepdim)", "some x is not 0", false, true, FLAME_REDUCTION(any)},
    {"all", "all(x, axes, keepdim)", "no x is 0", false, true, FLAME_REDUCTION(all)},
    {"argmax", "argmax(x, axes, keepdim)", "place of the largest x", false, false, FLAME_REDUCTION(argmax)},
    {"argmin", "argmin(x, axes, keepdim)", "place of the smallest x", false, false, FLAME_REDUCTION(argmin)},
};
#undef FLAME_REDUCTION

void add_orders(std::vector<SampleCase>& out, DType t);
void add_gaps(std::vector<SampleCase>& out, Fn fn, DType t);

std::vector<SampleCase> samples_of(const Row& row, DType t) {
  std::vector<SampleCase> out;
  const auto add_case = [&](const char* label, const Tensor& x, const Axes& axes, bool keepdim) {
    out.push_back({{x},
                   [fn = row.fn, axes, keepdim](const std::vector<Tensor>& in) { return fn(in[0], axes, keepdim); },
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
  const std::string_view name = row.name;
  const bool deviation = name == "std" || name == "std_mean";
  if (name == "amax" || name == "amin" || name == "aminmax" || deviation)
    add_case("expanded", samples::uniform({1, 4}, t, 6, lo, hi).expand({3, 4}), 1,
             false);  // no ties, no deviation of 0
  else add_case("expanded", samples::uniform({4, 1}, t, 6, lo, hi).expand({4, 3}), {}, false);
  if (!deviation) {
    add_case("rank 0", samples::uniform({}, t, 7, lo, hi), {}, false);
    add_case("one element", samples::uniform({1, 1}, t, 8, lo, hi), 0, false);
  }
  add_case("empty result", samples::uniform({0, 3}, t, 9, lo, hi), 1, false);
  if (row.takes_empty) add_case("nothing to reduce", samples::uniform({2, 0}, t, 10, lo, hi), 1, false);
  if (name == "norm") add_orders(out, t);
  if (name.starts_with("nan")) add_gaps(out, row.fn, t);
  return out;
}

void add_orders(std::vector<SampleCase>& out, DType t) {
  constexpr double inf = std::numeric_limits<double>::infinity();
  const Tensor signs = Tensor::from(std::vector<double>{1, -1, 1, 1, -1}, {5});
  for (double p : {1.0, 3.0, 2.5, 0.5, -1.0, 0.0, inf, -inf})
    out.push_back({{samples::uniform({3, 5}, t, 11, 0.4, 1.9) * signs.to(t)},
                   [p](const std::vector<Tensor>& in) { return Outputs{norm(in[0], 1, {.p = p, .keepdim = true})}; },
                   "order " + std::to_string(p)});
}
// Some elements are made NaN inside, so that differences around them stay numbers.
void add_gaps(std::vector<SampleCase>& out, Fn fn, DType t) {
  const Tensor gaps = Tensor::from(std::vector<bool>{true, false, true, true, false, false, true, true}, {2, 4});
  out.push_back({{samples::uniform({2, 4}, t, 12)},
                 [fn, gaps](const std::vector<Tensor>& in) {
                   return fn(where(gaps, in[0], std::numeric_limits<double>::quiet_NaN()), 1, false);
                 },
                 "NaN"});
}

// max and min along an axis, with the place.
std::vector<SampleCase> places_of(ValuesAndIndices (*fn)(const Tensor&, int64_t, bool, Loc), DType t) {
  const auto along = [fn](int64_t axis, bool keepdim) {
    return [=](const std::vector<Tensor>& in) {
      const auto [values, indices] = fn(in[0], axis, keepdim, Loc::current());
      return Outputs{values, indices};
    };
  };
  using namespace samples;
  return {
      {{uniform({2, 3, 5}, t, 1)}, along(-1, false), "last axis"},
      {{uniform({2, 3, 5}, t, 1)}, along(0, true), "first axis"},
      {{transposed({4, 5}, t, 4)}, along(1, false), "transposed"},
      {{strided({3, 67}, t, 5)}, along(1, true), "ragged, strided"},
      {{uniform({}, t)}, along(0, false), "rank 0"},
      {{uniform({0, 3}, t)}, along(1, false), "empty result"},
  };
}

struct RegisterRows {
  RegisterRows() {
    for (const Row& row : rows)
      RegisterOp(
          {row.name, row.signature, row.formula, row.differentiable, [&row](DType t) { return samples_of(row, t); }});
  }
} const register_rows;

const RegisterOp registered_max({.name = "max",
                                 .signature = "max(x, axis, keepdim), max(x)",
                                 .formula = "the largest x, and its place",
                                 .samples = [](DType t) { return places_of(max, t); }});
const RegisterOp registered_min({.name = "min",
                                 .signature = "min(x, axis, keepdim), min(x)",
                                 .formula = "the smallest x, and its place",
                                 .samples = [](DType t) { return places_of(min, t); }});

}  // namespace
}  // namespace flame
