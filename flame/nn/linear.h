// Linear: y = x W^T + b over the last axis, and an activation of it if one is asked for.
#pragma once
#include "flame/nn/module.h"

namespace flame::nn {

struct LinearOptions {
  int64_t in, out;
  bool bias = true;
  DType dtype = DType::f32;
  Activation activation = Activation::none;
};

// weight [out, in] and bias [out], both uniform on +-1 / sqrt(in), as in PyTorch. x: [..., in] -> [..., out].
class Linear : public Layer {
 public:
  using Options = LinearOptions;
  explicit Linear(const Options& o, Loc loc = Loc::current()) : Linear(nullptr, {}, o, loc) {}
  Linear(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : Linear(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight, bias;  // bias is undefined if the options say so

 private:
  Linear(Module* parent, std::string name, const Options& o, Loc loc);
};

}  // namespace flame::nn
