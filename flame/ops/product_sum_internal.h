// Internal: products that are added up, none of them rounded to 16 bits on a device whose products fuse.
#pragma once
#include "flame/tensor/tensor.h"

namespace flame {

// sum + a b, of matrices of one floating dtype, in float32 or float64; the product alone where `sum` is undefined. In
// one launch on devices that fuse(), in the memory of a sum that nobody else holds; elsewhere the product is rounded
// to its dtype first. No graph.
Tensor add_product(Tensor sum, const Tensor& a, const Tensor& b, Loc loc);

}  // namespace flame
