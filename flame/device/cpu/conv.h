// Internal: two-dimensional convolution on channels-last activations, and the two ways to compute it.
#pragma once
#include "flame/device/device.h"

namespace flame {

// Sizes of a convolution, named once. Per group: `in` and `out` channels.
struct ConvSizes {
  int64_t images, groups, in, out, height, width, kernel[2], out_height, out_width;
  explicit ConvSizes(const ConvDesc& d)
      : images(d.x.shape[0]),
        groups(d.groups),
        in(d.w.shape[1]),
        out(d.w.shape[0] / d.groups),
        height(d.x.shape[2]),
        width(d.x.shape[3]),
        kernel{d.w.shape[2], d.w.shape[3]},
        out_height(d.y.shape[2]),
        out_width(d.y.shape[3]) {}
};

// Both take channels-last activations and contiguous weights, float32 or float64 the second, and compute all of it.
#ifdef FLAME_WITH_ONEDNN
Ref<Plan> conv_onednn(const ConvDesc& d);  // null where oneDNN refuses
#endif
Ref<Plan> conv_im2col(const ConvDesc& d);

}  // namespace flame
