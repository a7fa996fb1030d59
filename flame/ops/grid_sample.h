// Reading a picture at given places (Jaderberg et al. 2015), as F.grid_sample does.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

enum class GridMode : uint8_t { bilinear, nearest };  // bilinear: linear along every axis, of volumes too
// What lies outside: zeros; the border, repeated; or the picture's mirror image.
enum class GridPadding : uint8_t { zeros, border, reflection };
struct GridSampleOptions {
  GridMode mode = GridMode::bilinear;
  GridPadding padding_mode = GridPadding::zeros;
  bool align_corners = false;  // -1 and 1 are the centres of the corner elements; else their outer edges
};

// x [N, C, H, W], grid [N, H', W', 2] of places (x, y) in [-1, 1] -> [N, C, H', W']; or x [N, C, D, H, W], grid
// [N, D', H', W', 3] of (x, y, z). Floating, of one dtype; 16-bit ones are computed in float32 and rounded once. A place that
// is not finite is outside. The grid's gradient is 0 beyond a border and for nearest. Gradients of every order.
// Errors: ShapeError, DTypeError, DeviceError.
Tensor grid_sample(const Tensor& x, const Tensor& grid, const GridSampleOptions& o = {}, Loc loc = Loc::current());

}  // namespace flame
