// Internal: the loops of two-dimensional pooling, per dtype, for the best instruction set of this CPU.
#pragma once
#include <cstdint>

#include "flame/core/dtype.h"

namespace flame {

// x: [images, channels, height, width], y: [images, channels, out_height, out_width], both dense: channels-last or contiguous.
struct PoolSizes {
  int64_t images, channels, height, width, out_height, out_width;
  int64_t kernel[2], stride[2], padding[2], dilation[2];
  bool channels_last;
  bool count_padding;  // of an average's divisor
};

// An index is a place in the plane, h * width + w; -1 for a window without any.
enum class PoolPass : uint8_t {
  max,               // x -> y, writes index
  max_backward,      // dy, index -> dx
  max_gather,        // x, index -> y: the elements that won
  average,           // x -> y
  average_backward,  // dy -> dx
};
// Threads inside; every element is summed by one thread in an order that the sizes decide.
using PoolFn = void (*)(const PoolSizes& p, const void* in, int32_t* index, void* out);
PoolFn pool_kernel(PoolPass pass, DType t);  // floating dtypes; 16-bit ones are summed in float32 and rounded once

}  // namespace flame
