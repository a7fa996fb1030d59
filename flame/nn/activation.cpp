// Activation layers with options, and PReLU with its weight: each a call of its op.
#include "flame/nn/activation.h"

#include "flame/core/format.h"
#include "flame/ops/create.h"

namespace flame::nn {

Tensor LeakyReLUOptions::apply(const Tensor& x, Loc loc) const { return leaky_relu(x, negative_slope, loc); }
std::string LeakyReLUOptions::kind() const { return fmt::format("LeakyReLU({})", negative_slope); }

Tensor ELUOptions::apply(const Tensor& x, Loc loc) const { return elu(x, alpha, loc); }
std::string ELUOptions::kind() const { return fmt::format("ELU({})", alpha); }

Tensor CELUOptions::apply(const Tensor& x, Loc loc) const { return celu(x, alpha, loc); }
std::string CELUOptions::kind() const { return fmt::format("CELU({})", alpha); }

Tensor GELUOptions::apply(const Tensor& x, Loc loc) const { return gelu(x, approximate, loc); }
std::string GELUOptions::kind() const { return approximate == Approximate::tanh ? "GELU(tanh)" : "GELU"; }

Tensor HardtanhOptions::apply(const Tensor& x, Loc loc) const { return hardtanh(x, min, max, loc); }
std::string HardtanhOptions::kind() const { return fmt::format("Hardtanh({}, {})", min, max); }

Tensor SoftplusLayerOptions::apply(const Tensor& x, Loc loc) const {
  return softplus(x, SoftplusOptions{.beta = beta, .threshold = threshold}, loc);
}
std::string SoftplusLayerOptions::kind() const { return fmt::format("Softplus({}, {})", beta, threshold); }

Tensor SoftshrinkOptions::apply(const Tensor& x, Loc loc) const { return softshrink(x, lambda, loc); }
std::string SoftshrinkOptions::kind() const { return fmt::format("Softshrink({})", lambda); }

Tensor HardshrinkOptions::apply(const Tensor& x, Loc loc) const { return hardshrink(x, lambda, loc); }
std::string HardshrinkOptions::kind() const { return fmt::format("Hardshrink({})", lambda); }

Tensor ThresholdOptions::apply(const Tensor& x, Loc loc) const { return flame::threshold(x, threshold, value, loc); }
std::string ThresholdOptions::kind() const { return fmt::format("Threshold({}, {})", threshold, value); }

Tensor GLUOptions::apply(const Tensor& x, Loc loc) const { return glu(x, axis, loc); }
std::string GLUOptions::kind() const { return fmt::format("GLU({})", axis); }

Tensor SwiGLUOptions::apply(const Tensor& x, Loc loc) const { return swiglu(x, axis, loc); }
std::string SwiGLUOptions::kind() const { return fmt::format("SwiGLU({})", axis); }

Tensor GEGLUOptions::apply(const Tensor& x, Loc loc) const { return geglu(x, axis, Approximate::none, loc); }
std::string GEGLUOptions::kind() const { return fmt::format("GEGLU({})", axis); }

Tensor SoftmaxOptions::apply(const Tensor& x, Loc loc) const { return softmax(x, axis, loc); }
std::string SoftmaxOptions::kind() const { return fmt::format("Softmax({})", axis); }

Tensor LogSoftmaxOptions::apply(const Tensor& x, Loc loc) const { return log_softmax(x, axis, loc); }
std::string LogSoftmaxOptions::kind() const { return fmt::format("LogSoftmax({})", axis); }

namespace {
const PReLUOptions& checked(const PReLUOptions& o, Loc loc) {
  if (o.channels < 1) fail<ValueError>(loc, "PReLU: expected channels of 1 or more, got {}", o.channels);
  if (!is_float(o.dtype)) fail<DTypeError>(loc, "PReLU: expected a floating dtype, got {}", o.dtype);
  return o;
}
}  // namespace
PReLU::PReLU(Module* parent, std::string name, const Options& o, Loc loc)
    : Layer(parent, std::move(name), loc),
      options(checked(o, loc)),
      weight(*this, "weight", full({o.channels}, o.init, o.dtype, default_device(), loc), loc) {}
Tensor PReLU::forward(const Tensor& x, Loc loc) { return prelu(x, weight.tensor(), loc); }
std::string PReLU::kind() const { return fmt::format("PReLU({})", options.channels); }

}  // namespace flame::nn
