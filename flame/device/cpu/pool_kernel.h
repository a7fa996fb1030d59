// Internal: the loops of pooling over one to three axes, per dtype, for the best instruction set of this CPU.
#pragma once
#include <cstdint>

#include "flame/core/dtype.h"

namespace flame {

// Window o starts at o * stride - padding; adaptive: it covers [floor(o size / out), ceil((o + 1) size / out)).
struct PoolAxis {
  int64_t size = 1, out = 1, kernel = 1, stride = 1, padding = 0, dilation = 1;
};

// x: [images, channels, depth, height, width], y: likewise, both dense: channels-last or contiguous.
struct PoolSizes {
  int64_t images, channels;
  PoolAxis axis[3];  // depth, height, width
  bool channels_last;
  bool adaptive;       // on channels-last tensors alone
  bool count_padding;  // of an average's divisor
  int64_t divisor;     // of an average; 0: the elements counted
  int64_t plane() const { return axis[0].size * axis[1].size * axis[2].size; }
  int64_t out_plane() const { return axis[0].out * axis[1].out * axis[2].out; }
};

// An index is a place in the plane, (d * height + h) * width + w; -1 for a window without any.
enum class PoolPass : uint8_t {
  max,               // x -> y, writes index
  max_backward,      // dy, index -> dx
  max_gather,        // x, index -> y: the elements that won
  average,           // x -> y
  average_backward,  // dy -> dx
};
// Threads inside; every element is summed by one thread in an order that the sizes decide.
using PoolFn = void (*)(const PoolSizes& p, const void* in, int32_t* index, void* out);
PoolFn max_pool_kernel(PoolPass pass, DType t);  // floating dtypes; 16-bit ones are summed in float32 and rounded once
PoolFn avg_pool_kernel(PoolPass pass, DType t);

}  // namespace flame
