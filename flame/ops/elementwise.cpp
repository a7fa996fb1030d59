// Composed elementwise functions. Their gradients are those of the rows they are made of.
#include "flame/ops/elementwise.h"

#include <limits>

#include "flame/autograd/op_scope.h"
#include "flame/ops/composed_internal.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/reduce.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

DType floating(DType t) { return is_float(t) ? t : DType::f32; }

// Calls fn on the three inputs in the dtype that they are computed in, and rounds its result to the promoted one.
template <class F>
Tensor of_three(const char* op, const Tensor& input, const Tensor& a, const Tensor& b, Loc loc, F fn) {
  common_shape(op, {&input, &a, &b}, loc);
  const DType t = floating(promote(input.dtype(), promote(a.dtype(), b.dtype()))), wide = compute_dtype_of(t);
  return fn(input.to(wide, loc), a.to(wide, loc), b.to(wide, loc)).to(t, loc);
}

double largest(DType t) {
  switch (t) {
    case DType::f16: return 65504;
    case DType::bf16: return 0x1.fep127;
    case DType::f32: return std::numeric_limits<float>::max();
    default: return std::numeric_limits<double>::max();
  }
}

}  // namespace

Tensor addcmul(const Tensor& input, const Tensor& a, const Tensor& b, const AddcOptions& o, Loc loc) {
  const OpScope scope("addcmul");
  return of_three("addcmul", input, a, b, loc, [&](const Tensor& x, const Tensor& y, const Tensor& z) {
    return add(x, mul(o.value == 1 ? y : mul(y, o.value, loc), z, loc), loc);
  });
}
Tensor addcdiv(const Tensor& input, const Tensor& a, const Tensor& b, const AddcOptions& o, Loc loc) {
  const OpScope scope("addcdiv");
  return of_three("addcdiv", input, a, b, loc, [&](const Tensor& x, const Tensor& y, const Tensor& z) {
    return add(x, div(o.value == 1 ? y : mul(y, o.value, loc), z, loc), loc);
  });
}

Tensor nan_to_num(const Tensor& x, const NanToNumOptions& o, Loc loc) {
  const OpScope scope("nan_to_num");
  check_defined("nan_to_num", x, loc);
  if (!is_float(x.dtype())) return x;
  constexpr double inf = std::numeric_limits<double>::infinity();
  const double most = largest(x.dtype());
  const Tensor finite = where(eq(x, inf, loc), o.posinf.value_or(most), x, loc);
  return where(isnan(x, loc), o.nan, where(eq(x, -inf, loc), o.neginf.value_or(-most), finite, loc), loc);
}

Tensor logit(const Tensor& x, double eps, Loc loc) {
  if (!(eps >= 0 && eps <= 0.5)) fail<ValueError>(loc, "logit: expected an eps in [0, 1/2], got {}", eps);
  check_defined("logit", x, loc);
  const DType t = floating(x.dtype());
  return logit(clamp(x.to(compute_dtype_of(t), loc), eps, 1 - eps, loc), loc).to(t, loc);
}

Tensor isclose(const Tensor& a, const Tensor& b, const CloseOptions& o, Loc loc) {
  if (!(o.rtol >= 0 && o.atol >= 0))
    fail<ValueError>(loc, "isclose: expected rtol and atol of 0 or more, got {} and {}", o.rtol, o.atol);
  common_shape("isclose", {&a, &b}, loc);
  // In float64, so that integers are exact to 2^53 and no difference wraps or overflows.
  const Tensor x = a.detach().to(DType::f64, loc), y = b.detach().to(DType::f64, loc);
  const Tensor distance = abs(sub(x, y, loc), loc), allowed = add(mul(abs(y, loc), o.rtol, loc), o.atol, loc);
  const Tensor near = logical_and(isfinite(distance, loc), le(distance, allowed, loc), loc);
  const Tensor close = logical_or(eq(x, y, loc), near, loc);
  return o.equal_nan ? logical_or(close, logical_and(isnan(x, loc), isnan(y, loc), loc), loc) : close;
}
bool allclose(const Tensor& a, const Tensor& b, const CloseOptions& o, Loc loc) {
  return all(isclose(a, b, o, loc), {}, false, loc).item<bool>(loc);
}

namespace {
using Inputs = std::vector<Tensor>;

std::vector<SampleCase> three_cases(DType t, Tensor (*fn)(const Tensor&, const Tensor&, const Tensor&, double)) {
  const auto scaled = [fn](double value) {
    return [fn, value](const Inputs& in) { return Inputs{fn(in[0], in[1], in[2], value)}; };
  };
  using namespace samples;
  return {
      {{uniform({3, 5}, t, 1), uniform({3, 5}, t, 2), uniform({3, 5}, t, 3, 0.5, 2)}, scaled(1), "dense"},
      {{transposed({3, 4}, t, 1), strided({4}, t, 2), uniform({3, 1}, t, 3, 0.5, 2)}, scaled(-0.5), "broadcast"},
      {{uniform({}, t, 1), uniform({}, t, 2), uniform({}, t, 3, 0.5, 2)}, scaled(2), "rank 0"},
      {{uniform({0, 3}, t, 1), uniform({3}, t, 2), uniform({1}, t, 3, 0.5, 2)}, scaled(2), "empty"},
  };
}
const RegisterOp registered_addcmul({
    .name = "addcmul",
    .signature = "addcmul(input, a, b, value)",
    .formula = "input + value a b",
    .samples =
        [](DType t) {
          return three_cases(t, [](const Tensor& x, const Tensor& a, const Tensor& b, double value) {
            return addcmul(x, a, b, {.value = value});
          });
        },
});
const RegisterOp registered_addcdiv({
    .name = "addcdiv",
    .signature = "addcdiv(input, a, b, value)",
    .formula = "input + value a / b",
    .samples =
        [](DType t) {
          return three_cases(t, [](const Tensor& x, const Tensor& a, const Tensor& b, double value) {
            return addcdiv(x, a, b, {.value = value});
          });
        },
});
const RegisterOp registered_nan_to_num({
    .name = "nan_to_num",
    .signature = "nan_to_num(x, options)",
    .formula = "x, with numbers for NaN, Inf and -Inf",
    .samples =
        [](DType t) {
          const auto fn = [](const Inputs& in) { return Inputs{nan_to_num(in[0])}; };
          using namespace samples;
          return std::vector<SampleCase>{{{uniform({3, 5}, t)}, fn, "dense"},
                                         {{transposed({3, 4}, t)}, fn, "transposed"},
                                         {{strided({2, 3}, t)}, fn, "strided"},
                                         {{uniform({}, t)}, fn, "rank 0"},
                                         {{uniform({0, 2}, t)}, fn, "empty"}};
        },
});
const RegisterOp registered_isclose({
    .name = "isclose",
    .signature = "isclose(a, b, options)",
    .formula = "|a - b| <= atol + rtol |b|",
    .differentiable = false,
    .samples =
        [](DType t) {
          const auto fn = [](const Inputs& in) { return Inputs{isclose(in[0], in[1], {.rtol = 0.5, .atol = 0.1})}; };
          using namespace samples;
          return std::vector<SampleCase>{{{uniform({3, 5}, t, 1), uniform({3, 5}, t, 2)}, fn, "dense"},
                                         {{transposed({3, 4}, t, 1), strided({4}, t, 2)}, fn, "broadcast"},
                                         {{uniform({}, t, 1), uniform({0, 2}, t, 2)}, fn, "empty"}};
        },
});
}  // namespace

}  // namespace flame
