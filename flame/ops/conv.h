// Convolution (cross-correlation, as in all of deep learning) over one to three axes, and its transpose.
#pragma once
#include "flame/ops/per_axis.h"
#include "flame/tensor/tensor.h"

namespace flame {

// valid: none; same: as much as keeps the sizes at stride 1, the odd one behind.
enum class Padding : uint8_t { valid, same };
template <int axes>
class ConvPadding : public PerAxis<axes> {
 public:
  using PerAxis<axes>::PerAxis;
  ConvPadding(const PerAxis<axes>& each) : PerAxis<axes>(each) {}
  ConvPadding(Padding named) : PerAxis<axes>(0), same_(named == Padding::same) {}
  bool same() const { return same_; }
  bool operator==(const ConvPadding&) const = default;

 private:
  bool same_ = false;
};

template <int axes>
struct ConvOptions {
  PerAxis<axes> stride = 1;
  ConvPadding<axes> padding = 0;
  PerAxis<axes> dilation = 1;
  int64_t groups = 1;
  Activation activation = Activation::none;  // of the result; relu is part of the convolution on a GPU
};
using Conv1dOptions = ConvOptions<1>;
using Conv2dOptions = ConvOptions<2>;
using Conv3dOptions = ConvOptions<3>;

// x [N, C, H, W] or [C, H, W], weight [O, C / groups, R, S], bias [O] or left out -> [N, O, H', W'] or [O, H', W'] with
// H' = (H + 2 padding - dilation (R - 1) - 1) / stride + 1, rounded down; with one or three axes likewise. Floating
// dtypes, promoted. The result is channels-last. Errors: ShapeError, DTypeError, ValueError (options out of range).
Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Conv1dOptions& options = {},
              Loc loc = Loc::current());
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Conv2dOptions& options = {},
              Loc loc = Loc::current());
Tensor conv3d(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Conv3dOptions& options = {},
              Loc loc = Loc::current());

template <int axes>
struct ConvTransposeOptions {
  PerAxis<axes> stride = 1, padding = 0;
  PerAxis<axes> output_padding = 0;  // more at the end of the result; below stride or dilation
  PerAxis<axes> dilation = 1;
  int64_t groups = 1;
};
using ConvTranspose1dOptions = ConvTransposeOptions<1>;
using ConvTranspose2dOptions = ConvTransposeOptions<2>;
using ConvTranspose3dOptions = ConvTransposeOptions<3>;

// The transpose of the convolution of these options: x [N, C, H, W] or [C, H, W], weight [C, O / groups, R, S], bias [O]
// or left out -> [N, O, H', W'] with H' = (H - 1) stride - 2 padding + dilation (R - 1) + output_padding + 1.
Tensor conv_transpose1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                        const ConvTranspose1dOptions& options = {}, Loc loc = Loc::current());
Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                        const ConvTranspose2dOptions& options = {}, Loc loc = Loc::current());
Tensor conv_transpose3d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                        const ConvTranspose3dOptions& options = {}, Loc loc = Loc::current());

}  // namespace flame
