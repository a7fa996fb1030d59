// Internal: the CPU device's library services. A plan is prepared once, holds no buffers, and may run on two threads at once.
#pragma once
#include "flame/device/device.h"

namespace flame {

// Throws ShapeError or DTypeError for a description that fits no product; every dtype but bool is computed.
Ref<Plan> cpu_gemm(const GemmDesc& d);
// Floating dtypes. Activations of any strides (channels-last and contiguous ones without a copy), weights of any
// strides (contiguous ones without a copy).
Ref<Plan> cpu_conv(const ConvDesc& d);

}  // namespace flame
