// Internal: what batch norm sums over a channels-last tensor on a GPU; the rest of it is island ops, which join what follows.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// Whether x [N, C, ...] is dense channels-last on a device that compiles text, and normalised over all axes but 1.
bool sums_by_channel(const Tensor& x, const Dims& axes);

struct ChannelSums {
  Tensor first, second;  // [1, C, 1, ...], float32 or float64
};
ChannelSums channel_moments(const Tensor& x, Loc loc);  // mean and biased variance
// Sums of g, of x's shape and dtype, and of g (x - mean) scale; mean and scale are [1, C, 1, ...].
ChannelSums channel_slopes(const Tensor& x, const Tensor& g, const Tensor& mean, const Tensor& scale, Loc loc);

}  // namespace flame
