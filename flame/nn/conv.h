// Convolutions and transposed convolutions with learned filters, over one to three axes.
#pragma once
#include "flame/nn/module.h"
#include "flame/ops/conv.h"

namespace flame::nn {

// What stands around the input of a convolution: zeros, its mirror image, its border, or its other end.
enum class PaddingMode : uint8_t { zeros, reflect, replicate, circular };

template <int axes>
struct ConvOptions {
  int64_t in, out;  // channels
  PerAxis<axes> kernel;
  PerAxis<axes> stride = 1;
  ConvPadding<axes> padding = 0;
  PerAxis<axes> dilation = 1;
  int64_t groups = 1;
  bool bias = true;
  PaddingMode padding_mode = PaddingMode::zeros;
  DType dtype = DType::f32;
};

// weight [out, in / groups, height, width] and bias [out], both uniform on +-1 / sqrt(in / groups * height * width), as
// in PyTorch. x: [N, in, H, W] or [in, H, W] -> [N, out, H', W'] or [out, H', W'].
template <int axes>
class Conv : public Layer {
 public:
  using Options = ConvOptions<axes>;
  explicit Conv(const Options& o, Loc loc = Loc::current()) : Conv(nullptr, {}, o, loc) {}
  Conv(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : Conv(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  std::string kind() const override;

  const Options options;
  Param weight, bias;  // bias is undefined if the options say so

 private:
  Conv(Module* parent, std::string name, const Options& o, Loc loc);
};
using Conv1d = Conv<1>;
using Conv2d = Conv<2>;
using Conv3d = Conv<3>;

template <int axes>
struct ConvTransposeOptions {
  int64_t in, out;  // channels
  PerAxis<axes> kernel;
  PerAxis<axes> stride = 1, padding = 0, output_padding = 0, dilation = 1;
  int64_t groups = 1;
  bool bias = true;
  DType dtype = DType::f32;
};

// weight [in, out / groups, height, width] and bias [out], both uniform on +-1 / sqrt(out / groups * height * width), as
// in PyTorch.
template <int axes>
class ConvTranspose : public Layer {
 public:
  using Options = ConvTransposeOptions<axes>;
  explicit ConvTranspose(const Options& o, Loc loc = Loc::current()) : ConvTranspose(nullptr, {}, o, loc) {}
  ConvTranspose(Module& parent, std::string name, const Options& o, Loc loc = Loc::current())
      : ConvTranspose(&parent, std::move(name), o, loc) {}
  Tensor forward(const Tensor& x, Loc loc = Loc::current()) override;
  // With the output_padding, below the stride, that gives spatial axes of these sizes. ShapeError if there is none.
  Tensor forward(const Tensor& x, const PerAxis<axes>& output_size, Loc loc = Loc::current());
  std::string kind() const override;

  const Options options;
  Param weight, bias;  // bias is undefined if the options say so

 private:
  Tensor run(const Tensor& x, const PerAxis<axes>& output_padding, Loc loc) const;
  ConvTranspose(Module* parent, std::string name, const Options& o, Loc loc);
};
using ConvTranspose1d = ConvTranspose<1>;
using ConvTranspose2d = ConvTranspose<2>;
using ConvTranspose3d = ConvTranspose<3>;

}  // namespace flame::nn
