// Internal: the kernel of scatter, as scatter_reduce uses it.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

enum class ScatterMode : uint8_t { assign, sum, prod, amax, amin };

// x with src at index, put there or combined with what is there. Its gradient is that of assign and sum.
Tensor scatter_combined(const char* op, ScatterMode mode, const Tensor& x, int64_t axis, const Tensor& index,
                        const Tensor& src, Loc loc);

}  // namespace flame
