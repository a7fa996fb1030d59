// Resampling of pictures and the like to another size, and moving pixels between channels and space.
#pragma once
#include <vector>

#include "flame/tensor/tensor.h"

namespace flame {

enum class InterpolateMode : uint8_t { nearest, nearest_exact, linear, bilinear, bicubic, trilinear, area };
const char* name_of(InterpolateMode m);

// One number for all spatial axes, or one each; empty: not given.
template <class T>
class PerSpatialAxis {
 public:
  PerSpatialAxis() = default;
  template <class U>
    requires std::is_arithmetic_v<U>
  PerSpatialAxis(U all) : each_{static_cast<T>(all)} {}
  PerSpatialAxis(std::initializer_list<T> each) : each_(each) {}
  PerSpatialAxis(std::vector<T> each) : each_(std::move(each)) {}
  const std::vector<T>& each() const { return each_; }

 private:
  std::vector<T> each_;
};

struct InterpolateOptions {
  PerSpatialAxis<int64_t> size = {};         // of the result, or
  PerSpatialAxis<double> scale_factor = {};  // size = floor(input size * scale_factor)
  InterpolateMode mode = InterpolateMode::nearest;
  bool align_corners = false;           // linear, bilinear, bicubic, trilinear: the corners' centres stay in place
  bool recompute_scale_factor = false;  // the scale is that of the sizes, not the one given
  bool antialias = false;               // bilinear, bicubic: wider windows where the result is smaller
};

// x [N, C, L], [N, C, H, W] or [N, C, D, H, W] -> the same with other spatial sizes. linear: three axes in all, bilinear
// and bicubic four, trilinear five, nearest, nearest_exact and area any of these. Floating dtypes; nearest and
// nearest_exact any. PyTorch's conventions (F.interpolate). Errors: ShapeError, DTypeError, ValueError (options).
Tensor interpolate(const Tensor& x, const InterpolateOptions& options, Loc loc = Loc::current());

// x [..., C r r, H, W] -> [..., C, H r, W r] (Shi et al. 2016), and back. Any dtype.
Tensor pixel_shuffle(const Tensor& x, int64_t upscale_factor, Loc loc = Loc::current());
Tensor pixel_unshuffle(const Tensor& x, int64_t downscale_factor, Loc loc = Loc::current());

}  // namespace flame
