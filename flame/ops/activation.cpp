// Activations with an axis, a weight or options: composed of rows, with rules that keep the inputs alone.
#include "flame/ops/activation.h"

#include "flame/autograd/autocast_ops.h"
#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/autograd/op_scope.h"
#include "flame/ops/cat.h"
#include "flame/ops/composed_internal.h"
#include "flame/ops/normalize_internal.h"
#include "flame/ops/pointwise_internal.h"
#include "flame/ops/samples_internal.h"

namespace flame {

Tensor gelu(const Tensor& x, Approximate approximate, Loc loc) {
  return approximate == Approximate::tanh ? gelu_tanh(x, loc) : gelu(x, loc);
}

Tensor activate(const Tensor& x, Activation activation, Loc loc) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return relu(x, loc);
    case Activation::gelu: return gelu(x, loc);
    case Activation::gelu_tanh: return gelu_tanh(x, loc);
  }
  fail<ValueError>(loc, "activate: expected an Activation, got {}", static_cast<int>(activation));
}

Tensor softplus(const Tensor& x, const SoftplusOptions& o, Loc loc) {
  if (const AutocastCall cast{"softplus", {&x}}) return softplus(cast(x, loc), o, loc);
  if (o.beta == 0) fail<ValueError>(loc, "softplus: expected a beta other than 0, got 0");
  check_defined("softplus", x, loc);
  if (!is_float(x.dtype())) return softplus(x.to(DType::f32, loc), o, loc);
  const DType t = x.dtype(), wide = compute_dtype_of(t);
  const Tensor y = no_grad([&] {
    const Tensor z = x.to(wide), scaled = z * o.beta;
    return where(scaled > o.threshold, z, softplus(scaled) / o.beta).to(t);
  });
  const auto rule = [o, t, wide](const CustomContext& c) -> std::vector<Tensor> {
    const Tensor scaled = c.saved[0].to(wide) * o.beta, g = c.grads[0].to(wide);
    return {where(scaled > o.threshold, g, g * sigmoid(scaled)).to(t)};
  };
  return with_rule("softplus", {&x, 1}, {y}, {x}, rule, loc)[0];
}

Tensor prelu(const Tensor& x, const Tensor& weight, Loc loc) {
  if (const AutocastCall cast{"prelu", {&x, &weight}}) return prelu(cast(x, loc), cast(weight, loc), loc);
  const OpScope scope("prelu");
  check_inputs("prelu", {&x, &weight}, loc);
  for (const Tensor* t : {&x, &weight}) check_floating("prelu", *t, loc);
  const int64_t channels = x.rank() > 1 ? x.shape()[1] : 1;
  if (weight.rank() > 1 || (weight.numel() != 1 && weight.numel() != channels))
    fail<ShapeError>(loc, "prelu: expected a weight of 1 or {} elements for an input {}, got {}", channels, x.shape(),
                     weight.shape());
  if (weight.numel() == 1) return leaky_relu(x, weight.reshape({}, loc).to(x.dtype(), loc), loc);
  Shape s = Dims::filled(x.rank(), 1);
  s[1] = channels;
  return leaky_relu(x, weight.to(x.dtype(), loc).reshape(s, loc), loc);
}

namespace {

// y = act(gate) value; the gate is the first half, or the second.
struct Gated {
  const char* name;
  bool gate_first;
  Tensor (*act)(const Tensor& gate);
  Tensor (*slope)(const Tensor& gate);  // the derivative of act
};
struct Halves {
  Tensor gate, value;
};
Halves halves(const Tensor& x, const Gated& f, int axis) {
  const int64_t half = x.shape()[axis] / 2;
  const Tensor wide = x.to(compute_dtype_of(x.dtype()));
  const Tensor a = wide.narrow(axis, 0, half), b = wide.narrow(axis, half, half);
  return f.gate_first ? Halves{a, b} : Halves{b, a};
}

Tensor gated(const Gated& f, const Tensor& x, int64_t axis, Loc loc) {
  check_defined(f.name, x, loc);
  if (!is_float(x.dtype())) return gated(f, x.to(DType::f32, loc), axis, loc);
  if (x.rank() == 0) fail<ShapeError>(loc, "{}: expected an input of rank 1 or more, got a 0-d one", f.name);
  const int along = normalize_axis(f.name, axis, x.rank(), loc);
  if (x.shape()[along] % 2 != 0)
    fail<ShapeError>(loc, "{}: expected an even size along axis {}, got {} of {}", f.name, axis, x.shape()[along],
                     x.shape());
  const DType t = x.dtype();
  const Tensor y = no_grad([&] {
    const Halves h = halves(x, f, along);
    return (f.act(h.gate) * h.value).to(t);
  });
  const auto rule = [f, along, t](const CustomContext& c) -> std::vector<Tensor> {
    const Halves h = halves(c.saved[0], f, along);
    const Tensor g = c.grads[0].to(h.gate.dtype());
    const Tensor gate = (g * h.value * f.slope(h.gate)).to(t), value = (g * f.act(h.gate)).to(t);
    return {f.gate_first ? cat({gate, value}, along) : cat({value, gate}, along)};
  };
  return with_rule(f.name, {&x, 1}, {y}, {x}, rule, loc)[0];
}

Tensor sigmoid_slope(const Tensor& x) {
  const Tensor s = sigmoid(x);
  return s * (1 - s);
}
Tensor sigmoid_of(const Tensor& x) { return sigmoid(x); }
Tensor silu_of(const Tensor& x) { return silu(x); }
Tensor gelu_of(const Tensor& x) { return gelu(x); }
Tensor gelu_tanh_of(const Tensor& x) { return gelu_tanh(x); }

}  // namespace

Tensor glu(const Tensor& x, int64_t axis, Loc loc) {
  return gated({"glu", false, sigmoid_of, sigmoid_slope}, x, axis, loc);
}
Tensor swiglu(const Tensor& x, int64_t axis, Loc loc) {
  return gated({"swiglu", true, silu_of, silu_slope}, x, axis, loc);
}
Tensor geglu(const Tensor& x, int64_t axis, Approximate approximate, Loc loc) {
  const bool short_form = approximate == Approximate::tanh;
  return gated({"geglu", true, short_form ? gelu_tanh_of : gelu_of, short_form ? gelu_tanh_slope : gelu_slope}, x, axis,
               loc);
}

namespace {
using Inputs = std::vector<Tensor>;

std::vector<SampleCase> gated_cases(DType t, Tensor (*fn)(const Tensor&, int64_t)) {
  const auto along = [fn](int64_t axis) { return [fn, axis](const Inputs& in) { return Inputs{fn(in[0], axis)}; }; };
  using namespace samples;
  return {
      {{uniform({3, 8}, t)}, along(-1), "rows"},
      {{transposed({4, 5}, t)}, along(0), "columns of a transpose"},
      {{strided({2, 6, 3}, t)}, along(1), "middle axis, strided"},
      {{uniform({2}, t)}, along(0), "one element each"},
      {{uniform({3, 0}, t)}, along(1), "empty"},
  };
}
const RegisterOp registered_glu({
    .name = "glu",
    .signature = "glu(x, axis)",
    .formula = "a / (1 + e^-b) of the halves a, b of x",
    .samples = [](DType t) { return gated_cases(t, [](const Tensor& x, int64_t axis) { return glu(x, axis); }); },
});
const RegisterOp registered_swiglu({
    .name = "swiglu",
    .signature = "swiglu(x, axis)",
    .formula = "silu(a) b of the halves a, b of x",
    .samples = [](DType t) { return gated_cases(t, [](const Tensor& x, int64_t axis) { return swiglu(x, axis); }); },
});
const RegisterOp registered_geglu({
    .name = "geglu",
    .signature = "geglu(x, axis, approximate)",
    .formula = "gelu(a) b of the halves a, b of x",
    .samples =
        [](DType t) {
          std::vector<SampleCase> all = gated_cases(t, [](const Tensor& x, int64_t axis) { return geglu(x, axis); });
          const auto short_form = [](const Inputs& in) { return Inputs{geglu(in[0], -1, Approximate::tanh)}; };
          all.push_back({{samples::uniform({3, 8}, t)}, short_form, "tanh"});
          return all;
        },
});

const RegisterOp registered_prelu({
    .name = "prelu",
    .signature = "prelu(x, weight)",
    .formula = "x if x > 0, else x weight",
    .samples =
        [](DType t) {
          const auto fn = [](const Inputs& in) { return Inputs{prelu(in[0], in[1])}; };
          using namespace samples;
          return std::vector<SampleCase>{
              {{uniform({4, 3}, t), uniform({3}, t, 2, 0.1, 0.4)}, fn, "a weight a column"},
              {{channels_last({2, 3, 4, 2}, t), strided({3}, t, 2, 0.1, 0.4)}, fn, "channels last"},
              {{transposed({3, 5}, t), uniform({1}, t, 2, 0.1, 0.4)}, fn, "one weight"},
              {{uniform({7}, t), uniform({}, t, 2, 0.1, 0.4)}, fn, "rank 1"},
              {{uniform({0, 3}, t), uniform({3}, t, 2, 0.1, 0.4)}, fn, "empty"},
          };
        },
});
}  // namespace

}  // namespace flame
