// Constants and ranges as pending values, so that they cost no launch of their own.
#include "flame/ops/create.h"

#include <cmath>

#include "flame/core/format.h"
#include "flame/fuse/island.h"
#include "flame/ops/check_internal.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/samples_internal.h"

namespace flame {
namespace {

Scalar converted(Scalar v, DType t) {
  if (t != DType::boolean) return v;
  return v.kind == Scalar::Kind::floating ? v.value != 0 : v.integral != 0;
}

double number(Scalar v) { return v.kind == Scalar::Kind::floating ? v.value : static_cast<double>(v.integral); }
bool integral(Scalar v) { return v.kind != Scalar::Kind::floating; }

}  // namespace

namespace {
Tensor filled_as(const char* op, const Shape& shape, Scalar value, DType dtype, Device& d, Loc loc) {
  check_sizes(op, shape, loc);
  return Tensor(pend_pointwise(Code::copy, dtype, shape, {converted(value, dtype)}, d));
}
Tensor filled_like(const char* op, const Tensor& x, Scalar value, Loc loc) {
  check_defined(op, x, loc);
  return filled_as(op, x.shape(), value, x.dtype(), x.device(), loc);
}
}  // namespace

Tensor full(const Shape& shape, Scalar value, DType dtype, Device& d, Loc loc) {
  return filled_as("full", shape, value, dtype, d, loc);
}
Tensor zeros(const Shape& shape, DType dtype, Device& d, Loc loc) {
  return filled_as("zeros", shape, 0, dtype, d, loc);
}
Tensor ones(const Shape& shape, DType dtype, Device& d, Loc loc) { return filled_as("ones", shape, 1, dtype, d, loc); }
Tensor empty(const Shape& shape, DType dtype, Device& d, Loc loc) {
  check_sizes("empty", shape, loc);
  return Tensor::empty(shape, dtype, d, loc);
}

Tensor full_like(const Tensor& x, Scalar value, Loc loc) { return filled_like("full_like", x, value, loc); }
Tensor zeros_like(const Tensor& x, Loc loc) { return filled_like("zeros_like", x, 0, loc); }
Tensor ones_like(const Tensor& x, Loc loc) { return filled_like("ones_like", x, 1, loc); }
Tensor empty_like(const Tensor& x, Loc loc) {
  check_defined("empty_like", x, loc);
  return empty(x.shape(), x.dtype(), x.device(), loc);
}

Tensor arange(Scalar start, Scalar stop, Scalar step, DType dtype, Device& d, Loc loc) {
  const double a = number(start), b = number(stop), s = number(step);
  if (s == 0 || !std::isfinite(a) || !std::isfinite(b) || !std::isfinite(s) || (b - a) * s < 0)
    fail<ValueError>(loc, "arange: no walk from {} to {} by steps of {}", a, b, s);
  int64_t n;
  if (integral(start) && integral(stop) && integral(step)) {
    const int64_t span = stop.integral - start.integral, by = step.integral;
    n = (span + by - (by > 0 ? 1 : -1)) / by;
  } else {
    n = static_cast<int64_t>(std::ceil((b - a) / s));
  }
  // Fractions are walked in float64 and rounded once.
  const bool direct =
      !is_float(dtype) || dtype == DType::f64 || (integral(start) && integral(step) && dtype == DType::f32);
  return Tensor(pend_iota({n}, direct ? dtype : DType::f64, 0, start, step, d)).to(dtype, loc);
}
Tensor arange(Scalar start, Scalar stop, Scalar step, Loc loc) {
  const bool integers = integral(start) && integral(stop) && integral(step);
  return arange(start, stop, step, integers ? DType::i64 : DType::f32, default_device(), loc);
}
Tensor arange(Scalar stop, Loc loc) { return arange(0, stop, 1, loc); }

Tensor linspace(double start, double stop, int64_t count, DType dtype, Device& d, Loc loc) {
  if (count < 0) fail<ValueError>(loc, "linspace: expected 0 or more values, got {}", count);
  if (!is_float(dtype)) fail<DTypeError>(loc, "linspace: expected a floating dtype, got {}", dtype);
  if (count < 2) return full({count}, start, dtype, d, loc);
  // Each half counts from its own end, so that both ends are exact.
  const double step = (stop - start) / static_cast<double>(count - 1);
  const Tensor i(pend_iota({count}, DType::f64, 0, 0, 1, d));
  const Tensor up = add(mul(i, step, loc), start, loc);
  const Tensor down = add(mul(sub(i, static_cast<double>(count - 1), loc), step, loc), stop, loc);
  return where(lt(i, 0.5 * static_cast<double>(count), loc), up, down, loc).to(dtype, loc);
}

Tensor eye(int64_t rows, int64_t columns, DType dtype, Device& d, Loc loc) {
  check_sizes("eye", {rows, columns}, loc);
  const Tensor r(pend_iota({rows, columns}, DType::i64, 0, 0, 1, d)),
      c(pend_iota({rows, columns}, DType::i64, 1, 0, 1, d));
  return eq(r, c, loc).to(dtype, loc);
}

namespace {
using Inputs = std::vector<Tensor>;

// Ops that make tensors from numbers: a few calls each, in the dtype asked for.
RegisterOp maker(const char* name, const char* signature, const char* formula,
                 const std::vector<Tensor (*)(DType)>& calls) {
  return RegisterOp(
      {.name = name, .signature = signature, .formula = formula, .differentiable = false, .samples = [calls](DType t) {
         std::vector<SampleCase> out;
         out.reserve(calls.size());
         for (auto call : calls)
           out.push_back(
               {{}, [call, t](const Inputs&) { return Inputs{call(t)}; }, "call " + std::to_string(out.size())});
         return out;
       }});
}
const RegisterOp makers[] = {
    maker("full", "full(shape, value, dtype, device)", "value everywhere",
          {[](DType t) {
             return full({2, 3}, 1.5, t);
           },
           [](DType t) { return full({}, -2, t); },
           [](DType t) {
             return full({0, 3}, 1, t);
           }}),
    maker("arange", "arange(start, stop, step, dtype)", "start + step i",
          {[](DType t) { return arange(0, 7, 1, t); }, [](DType t) { return arange(1.0, -1.0, -0.25, t); },
           [](DType t) { return arange(2, 2, 1, t); }}),
    maker("linspace", "linspace(start, stop, count, dtype)", "start + (stop - start) i / (count - 1)",
          {[](DType t) { return linspace(-1, 2, 13, t); }, [](DType t) { return linspace(3, 4, 1, t); }}),
    maker("eye", "eye(rows, columns, dtype)", "1 where the row is the column, else 0",
          {[](DType t) { return eye(3, 5, t); }, [](DType t) { return eye(1, t); }, [](DType t) { return eye(0, t); }}),
};
// Ops that follow another tensor's shape and dtype.
RegisterOp like(const char* name, const char* formula, Tensor (*fn)(const Tensor&)) {
  return RegisterOp({.name = name,
                     .signature = std::string(name) + (name == std::string("full_like") ? "(x, value)" : "(x)"),
                     .formula = formula,
                     .differentiable = false,
                     .samples = [fn](DType t) {
                       const auto run = [fn](const Inputs& in) { return Inputs{fn(in[0])}; };
                       return std::vector<SampleCase>{{{samples::uniform({2, 3}, t)}, run, "matrix"},
                                                      {{samples::transposed({2, 3}, t)}, run, "transposed"},
                                                      {{samples::uniform({}, t)}, run, "0-d"},
                                                      {{samples::uniform({0, 3}, t)}, run, "empty"}};
                     }});
}
const RegisterOp likes[] = {
    like("zeros_like", "0 everywhere", [](const Tensor& x) { return zeros_like(x); }),
    like("ones_like", "1 everywhere", [](const Tensor& x) { return ones_like(x); }),
    like("full_like", "value everywhere", [](const Tensor& x) { return full_like(x, -1.5); }),
};
}  // namespace

}  // namespace flame
