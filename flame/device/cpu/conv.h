// Internal: convolution on channels-last activations, and the two ways to compute it.
#pragma once
#include "flame/device/device.h"

namespace flame {

// Sizes of a convolution, named once. Per group: `in` and `out` channels. Fewer than three axes are led by axes of 1.
struct ConvSizes {
  int64_t images, groups, in, out;
  int64_t x[3] = {1, 1, 1}, y[3] = {1, 1, 1}, kernel[3] = {1, 1, 1};
  int64_t stride[3] = {1, 1, 1}, padding[3] = {0, 0, 0}, dilation[3] = {1, 1, 1};
  explicit ConvSizes(const ConvDesc& d)
      : images(d.x.shape[0]), groups(d.groups), in(d.w.shape[1]), out(d.w.shape[0] / d.groups) {
    const int axes = d.stride.rank();
    for (int i = 0; i < axes; ++i) {
      const int at = 3 - axes + i;
      x[at] = d.x.shape[i + 2], y[at] = d.y.shape[i + 2], kernel[at] = d.w.shape[i + 2];
      stride[at] = d.stride[i], padding[at] = d.padding[i], dilation[at] = d.dilation[i];
    }
  }
};

// "conv2d", "conv2d_backward_data", ...
const char* conv_name(const ConvDesc& d);

// Both take channels-last activations and contiguous weights, float32 or float64 the second, and compute all of it.
#ifdef FLAME_WITH_ONEDNN
Ref<Plan> conv_onednn(const ConvDesc& d);  // null where oneDNN refuses
#endif
Ref<Plan> conv_im2col(const ConvDesc& d);

}  // namespace flame
