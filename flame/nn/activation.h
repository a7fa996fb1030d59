// Activation layers. Those without options are made of their op; the others keep their options, named as the op's.
#pragma once
#include <algorithm>

#include "flame/nn/module.h"
#include "flame/ops/activation.h"
#include "flame/ops/softmax.h"

namespace flame::nn {

// A layer's kind as a template argument.
template <size_t n>
struct Kind {
  char text[n];
  constexpr Kind(const char (&s)[n]) { std::copy_n(s, n, text); }
};
template <Tensor (*op)(const Tensor&, Loc), Kind name>
class Plain : public Layer {
 public:
  using Layer::Layer;
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override { return op(x, loc); }
  std::string kind() const override { return name.text; }
};
using ReLU = Plain<&relu, "ReLU">;
using ReLU6 = Plain<&relu6, "ReLU6">;
using SELU = Plain<&selu, "SELU">;
using SiLU = Plain<&silu, "SiLU">;
using Mish = Plain<&mish, "Mish">;
using Sigmoid = Plain<&sigmoid, "Sigmoid">;
using LogSigmoid = Plain<&log_sigmoid, "LogSigmoid">;
using Tanh = Plain<&tanh, "Tanh">;
using Hardswish = Plain<&hardswish, "Hardswish">;
using Hardsigmoid = Plain<&hardsigmoid, "Hardsigmoid">;
using Softsign = Plain<&softsign, "Softsign">;
using Tanhshrink = Plain<&tanhshrink, "Tanhshrink">;

// A layer that is its options: they say how it acts and how it is shown.
template <class O>
class WithOptions : public Layer {
 public:
  using Options = O;
  explicit WithOptions(const Options& o = {}) : options(o) {}
  WithOptions(Module& parent, std::string name, const Options& o = {}, Loc loc = Loc::current())
      : Layer(parent, std::move(name), loc), options(o) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override { return options.apply(x, loc); }
  std::string kind() const override { return options.kind(); }

  const Options options;
};
struct LeakyReLUOptions {
  double negative_slope = 0.01;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct ELUOptions {
  double alpha = 1.0;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct CELUOptions {
  double alpha = 1.0;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct GELUOptions {
  Approximate approximate = Approximate::none;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct HardtanhOptions {
  double min = -1.0, max = 1.0;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct SoftplusLayerOptions {
  double beta = 1.0, threshold = 20.0;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct SoftshrinkOptions {
  double lambda = 0.5;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct HardshrinkOptions {
  double lambda = 0.5;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct ThresholdOptions {
  double threshold = 0.0, value = 0.0;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct GLUOptions {
  int64_t axis = -1;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct SwiGLUOptions {
  int64_t axis = -1;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct GEGLUOptions {
  int64_t axis = -1;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct SoftmaxOptions {
  int64_t axis = -1;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
struct LogSoftmaxOptions {
  int64_t axis = -1;
  Tensor apply(const Tensor& x, Loc loc) const;
  std::string kind() const;
};
using LeakyReLU = WithOptions<LeakyReLUOptions>;
using ELU = WithOptions<ELUOptions>;
using CELU = WithOptions<CELUOptions>;
using GELU = WithOptions<GELUOptions>;
using Hardtanh = WithOptions<HardtanhOptions>;
using Softplus = WithOptions<SoftplusLayerOptions>;
using Softshrink = WithOptions<SoftshrinkOptions>;
using Hardshrink = WithOptions<HardshrinkOptions>;
using Threshold = WithOptions<ThresholdOptions>;
using GLU = WithOptions<GLUOptions>;
using SwiGLU = WithOptions<SwiGLUOptions>;
using GEGLU = WithOptions<GEGLUOptions>;
using Softmax = WithOptions<SoftmaxOptions>;
using LogSoftmax = WithOptions<LogSoftmaxOptions>;

struct PReLUOptions {
  int64_t channels = 1;  // weights: one for all, or one for each size of axis 1
  double init = 0.25;
  DType dtype = DType::f32;
};
// x where positive, else x times a learned `weight` [channels].
class PReLU : public Layer {
 public:
  using Options = PReLUOptions;
  explicit PReLU(const Options& o = {}, Loc loc = Loc::current()) : PReLU(nullptr, {}, o, loc) {}
  PReLU(Module& parent, std::string name, const Options& o = {}, Loc loc = Loc::current())
      : PReLU(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight;

 private:
  PReLU(Module* parent, std::string name, const Options& o, Loc loc);
};

}  // namespace flame::nn
