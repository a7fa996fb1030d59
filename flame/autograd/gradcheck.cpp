// Numerical gradient checks: central differences of a fixed random combination of the outputs.
#include <cmath>

#include "flame/autograd/autograd.h"
#include "flame/autograd/node.h"
#include "flame/core/format.h"

namespace flame {

namespace {

// Fixed numbers in (-1, 1) that no rule gives by accident.
double weight(size_t i) {
  const double x = std::sin(static_cast<double>(i + 1) * 12.9898) * 43758.5453;
  return 2 * (x - std::floor(x)) - 1;
}
Tensor weights_like(const Tensor& t, size_t salt) {
  std::vector<double> w(static_cast<size_t>(t.numel()));
  for (size_t i = 0; i < w.size(); ++i) w[i] = weight(i + 977 * salt);
  return Tensor::from(w, t.shape(), t.device());
}

double combined(const std::vector<Tensor>& outputs) {
  double sum = 0;
  for (size_t k = 0; k < outputs.size(); ++k) {
    if (outputs[k].dtype() != DType::f64) continue;
    const std::vector<double> y = outputs[k].to_vector<double>();
    for (size_t i = 0; i < y.size(); ++i) sum += y[i] * weight(i + 977 * k);
  }
  return sum;
}

std::vector<Tensor> as_leaves(const std::vector<Tensor>& inputs) {
  std::vector<Tensor> out;
  for (const Tensor& t : inputs) {
    out.push_back(t.defined() ? t.detach() : t);
    if (t.defined() && t.dtype() == DType::f64) out.back().requires_grad_();
  }
  return out;
}

}  // namespace

void gradcheck(const TensorFn& fn, const std::vector<Tensor>& inputs, const GradcheckOptions& o, Loc loc) {
  const std::vector<Tensor> leaves = as_leaves(inputs);
  const std::vector<Tensor> outputs = fn(leaves);
  std::vector<Tensor> differentiable, seeds, wanted;
  for (size_t k = 0; k < outputs.size(); ++k)
    if (outputs[k].requires_grad()) {
      differentiable.push_back(outputs[k]);
      seeds.push_back(weights_like(outputs[k], k));
    }
  for (const Tensor& t : leaves)
    if (t.requires_grad()) wanted.push_back(t);
  if (differentiable.empty()) fail<AutogradError>(loc, "gradcheck: no output depends on a float64 input");
  const std::vector<Tensor> analytic = grad(differentiable, wanted, {.grad_outputs = seeds, .allow_unused = true}, loc);
  NoGrad guard;
  for (size_t i = 0, w = 0; i < inputs.size(); ++i) {
    if (!leaves[i].requires_grad()) continue;
    const Tensor& got = analytic[w++];
    if (got.defined() && got.shape() != inputs[i].shape())
      fail<AutogradError>(loc, "gradcheck: input {} of shape {} has a gradient of shape {}", i, inputs[i].shape(),
                          got.shape());
    const std::vector<double> g =
        got.defined() ? got.to_vector<double>() : std::vector<double>(static_cast<size_t>(inputs[i].numel()));
    std::vector<double> x = inputs[i].to_vector<double>();
    std::vector<Tensor> moved = inputs;
    const auto at = [&](size_t k, double value) {
      const double before = std::exchange(x[k], value);
      moved[i] = Tensor::from(x, inputs[i].shape(), inputs[i].device());
      x[k] = before;
      return combined(fn(moved));
    };
    for (size_t k = 0; k < x.size(); ++k) {
      const double numerical = (at(k, x[k] + o.eps) - at(k, x[k] - o.eps)) / (2 * o.eps);
      if (!(std::abs(numerical - g[k]) <= o.atol + o.rtol * std::abs(numerical)))
        fail<AutogradError>(loc, "gradcheck: input {}, element {}: the gradient is {:.9g}, differences give {:.9g}", i,
                            k, g[k], numerical);
    }
  }
}

void gradgradcheck(const TensorFn& fn, const std::vector<Tensor>& inputs, const GradcheckOptions& o, Loc loc) {
  std::vector<Tensor> all = inputs;
  std::vector<size_t> seeded;  // outputs that have a gradient
  {
    const std::vector<Tensor> outputs = fn(as_leaves(inputs));
    for (size_t k = 0; k < outputs.size(); ++k)
      if (outputs[k].requires_grad()) {
        seeded.push_back(k);
        all.push_back(weights_like(outputs[k], k + 31));
      }
  }
  const size_t n = inputs.size();
  const TensorFn first = [&](const std::vector<Tensor>& in) {
    std::vector<Tensor> x(in.begin(), in.begin() + static_cast<int64_t>(n));
    std::vector<Tensor> wanted;
    const bool outer = grad_enabled();
    set_grad_enabled(true);
    for (Tensor& t : x)
      if (t.defined() && t.dtype() == DType::f64) wanted.push_back(t.requires_grad_());
    const std::vector<Tensor> outputs = fn(x);
    GradOptions options{.create_graph = outer, .allow_unused = true};
    std::vector<Tensor> differentiable;
    for (size_t k = 0; k < seeded.size(); ++k) {
      differentiable.push_back(outputs[seeded[k]]);
      options.grad_outputs.push_back(in[n + k]);
    }
    std::vector<Tensor> found = grad(differentiable, wanted, options, loc);
    set_grad_enabled(outer);
    std::erase_if(found, [](const Tensor& t) { return !t.defined(); });
    return found;
  };
  // A function linear in everything has constant gradients, which depend on the seeds alone or on nothing at all.
  gradcheck(first, all, o, loc);
}

}  // namespace flame
