// Internal: taking a tensor apart completely, such as the gates of a recurrent cell or packed queries, keys and values.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// `count` views of equal size along `axis`, which count must divide. Their gradients are joined by one cat, where single
// narrows would each scatter into zeros of the whole size. With `dropped`, sizes of 1 lose the axis.
std::vector<Tensor> parts(const Tensor& x, int64_t count, int64_t axis, bool dropped, Loc loc);

}  // namespace flame
