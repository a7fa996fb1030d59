// Internal: small float32 convolutions over two axes by own kernels, on devices that compile text: those of few
// channels, and the gradient to the filters of others where TF32 is allowed.
#pragma once
#include "flame/device/device.h"

namespace flame {

// Whether the kernels of conv_few.cu take it, exact as they are: a first layer's pictures, mostly.
bool few_channels(const Device& d, const ConvDesc& c);
// Plans with the buffers of Device::conv. That of the weight's gradient may also take it through relu's slope at y
// (activation: a third input) and write the sums of dy by channel (bias: a second output).
Ref<Plan> few_channels_forward(Device& d, const ConvDesc& c);
Ref<Plan> few_channels_backward(Device& d, const ConvDesc& c);

// Whether the kernels of conv_weight.cu take it, and the plan with the buffers of Device::conv.
bool small_weight_gradient_fits(const Device& d, const ConvDesc& c);
Ref<Plan> small_weight_gradient(Device& d, const ConvDesc& c);

}  // namespace flame
