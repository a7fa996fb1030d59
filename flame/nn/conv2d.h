// Conv2d: two-dimensional cross-correlation with learned filters.
#pragma once
#include "flame/nn/module.h"
#include "flame/ops/pair.h"

namespace flame::nn {

struct Conv2dOptions {
  int64_t in, out;  // channels
  Pair kernel;
  Pair stride = 1, padding = 0, dilation = 1;
  int64_t groups = 1;
  bool bias = true;
  DType dtype = DType::f32;
};

// weight [out, in / groups, height, width] and bias [out], both uniform on +-1 / sqrt(in / groups * height * width), as
// in PyTorch. x: [N, in, H, W] -> [N, out, H', W'].
class Conv2d : public Layer {
 public:
  using Options = Conv2dOptions;
  explicit Conv2d(const Options& o, Loc loc = Loc::current()) : Conv2d(nullptr, {}, o, loc) {}
  Conv2d(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : Conv2d(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight, bias;  // bias is undefined if the options say so

 private:
  Conv2d(Module* parent, std::string name, const Options& o, Loc loc);
};

}  // namespace flame::nn
