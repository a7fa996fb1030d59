// Normalisation layers.
#pragma once
#include "flame/nn/module.h"

namespace flame::nn {

struct BatchNorm2dOptions {
  int64_t channels;
  double momentum = 0.1;  // of the running statistics: running = (1 - momentum) * running + momentum * batch
  double eps = 1e-5;
  bool affine = true;  // a learned weight (from 1) and bias (from 0) a channel
  DType dtype = DType::f32;
};

// Over [N, channels, H, W]; in eval mode by the running statistics (buffers running_mean and running_var).
class BatchNorm2d : public Layer {
 public:
  using Options = BatchNorm2dOptions;
  explicit BatchNorm2d(const Options& o, Loc loc = Loc::current()) : BatchNorm2d(nullptr, {}, o, loc) {}
  BatchNorm2d(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : BatchNorm2d(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight, bias;  // undefined if not affine
  Buffer running_mean, running_var;

 private:
  BatchNorm2d(Module* parent, std::string name, const Options& o, Loc loc);
};

struct LayerNormOptions {
  Shape normalized;  // the sizes of the last axes
  double eps = 1e-5;
  bool affine = true;  // a learned weight (from 1) and bias (from 0) an element
  DType dtype = DType::f32;
};

class LayerNorm : public Layer {
 public:
  using Options = LayerNormOptions;
  explicit LayerNorm(const Options& o, Loc loc = Loc::current()) : LayerNorm(nullptr, {}, o, loc) {}
  LayerNorm(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : LayerNorm(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight, bias;  // undefined if not affine

 private:
  LayerNorm(Module* parent, std::string name, const Options& o, Loc loc);
};

}  // namespace flame::nn
