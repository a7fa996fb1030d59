// Pools and upsampling as layers: each a call of its op.
#include "flame/nn/resize.h"

#include "flame/nn/sizes_internal.h"

namespace flame::nn {
namespace {

// "MaxPool2d(3, stride 2, padding 1)"
template <class O, int axes>
std::string window_text(const char* name, const O& o, const PerAxis<axes>& kernel) {
  std::string out = fmt::format("{}{}d({}", name, axes, text(kernel));
  if (o.stride != 0 && o.stride != kernel) out += fmt::format(", stride {}", text(o.stride));
  if (o.padding != 0) out += fmt::format(", padding {}", text(o.padding));
  return out + ")";
}

}  // namespace

template <int axes>
Tensor MaxPool<axes>::forward(const Tensor& x, Loc loc) {
  if constexpr (axes == 1) return max_pool1d(x, this->options, loc);
  else if constexpr (axes == 2) return max_pool2d(x, this->options, loc);
  else return max_pool3d(x, this->options, loc);
}
template <int axes>
std::string MaxPool<axes>::kind() const {
  return window_text("MaxPool", this->options, this->options.kernel);
}

template <int axes>
Tensor AvgPool<axes>::forward(const Tensor& x, Loc loc) {
  if constexpr (axes == 1) return avg_pool1d(x, this->options, loc);
  else if constexpr (axes == 2) return avg_pool2d(x, this->options, loc);
  else return avg_pool3d(x, this->options, loc);
}
template <int axes>
std::string AvgPool<axes>::kind() const {
  return window_text("AvgPool", this->options, this->options.kernel);
}

template <int axes>
Tensor AdaptiveMaxPool<axes>::forward(const Tensor& x, Loc loc) {
  if constexpr (axes == 1) return adaptive_max_pool1d(x, this->options.output_size, loc);
  else if constexpr (axes == 2) return adaptive_max_pool2d(x, this->options.output_size, loc);
  else return adaptive_max_pool3d(x, this->options.output_size, loc);
}
template <int axes>
std::string AdaptiveMaxPool<axes>::kind() const {
  return fmt::format("AdaptiveMaxPool{}d({})", axes, text(this->options.output_size));
}

template <int axes>
Tensor AdaptiveAvgPool<axes>::forward(const Tensor& x, Loc loc) {
  if constexpr (axes == 1) return adaptive_avg_pool1d(x, this->options.output_size, loc);
  else if constexpr (axes == 2) return adaptive_avg_pool2d(x, this->options.output_size, loc);
  else return adaptive_avg_pool3d(x, this->options.output_size, loc);
}
template <int axes>
std::string AdaptiveAvgPool<axes>::kind() const {
  return fmt::format("AdaptiveAvgPool{}d({})", axes, text(this->options.output_size));
}

template class MaxPool<1>;
template class MaxPool<2>;
template class MaxPool<3>;
template class AvgPool<1>;
template class AvgPool<2>;
template class AvgPool<3>;
template class AdaptiveMaxPool<1>;
template class AdaptiveMaxPool<2>;
template class AdaptiveMaxPool<3>;
template class AdaptiveAvgPool<1>;
template class AdaptiveAvgPool<2>;
template class AdaptiveAvgPool<3>;

Tensor Upsample::forward(const Tensor& x, Loc loc) {
  return interpolate(x,
                     {.size = options.size,
                      .scale_factor = options.scale_factor,
                      .mode = options.mode,
                      .align_corners = options.align_corners,
                      .recompute_scale_factor = options.recompute_scale_factor},
                     loc);
}
std::string Upsample::kind() const {
  const auto& size = options.size.each();
  const auto& scale = options.scale_factor.each();
  return size.empty() ? fmt::format("Upsample(scale {}, {})", fmt::join(scale, "x"), name_of(options.mode))
                      : fmt::format("Upsample({}, {})", fmt::join(size, "x"), name_of(options.mode));
}

Tensor PixelShuffle::forward(const Tensor& x, Loc loc) { return pixel_shuffle(x, options.factor, loc); }
std::string PixelShuffle::kind() const { return fmt::format("PixelShuffle({})", options.factor); }
Tensor PixelUnshuffle::forward(const Tensor& x, Loc loc) { return pixel_unshuffle(x, options.factor, loc); }
std::string PixelUnshuffle::kind() const { return fmt::format("PixelUnshuffle({})", options.factor); }

}  // namespace flame::nn
