// Sums of products by Einstein's notation, planned to matrix products.
#pragma once
#include <string_view>
#include <vector>

#include "flame/tensor/tensor.h"

namespace flame {

// torch.einsum: a letter names an axis; axes of one letter are multiplied together, and summed unless the output names
// it. "..." stands for further axes, which broadcast, as sizes of 1 do. A letter twice in one operand takes the diagonal.
// Without "->" the output has the ellipsis and then, A-Z before a-z, every letter that occurs once. Spaces are ignored.
//   einsum("bij,bjk->bik", {a, b})   einsum("ii", {m})   einsum("...d,vd->...v", {x, w})
// What one operand alone has is summed first; then the cheapest pair is contracted until one is left. Dtypes are
// promoted, float16 and bfloat16 are rounded after every pair. Intermediate results have at most 8 axes.
// Errors: ValueError for the equation, ShapeError for ranks and sizes, DTypeError (bool), DeviceError.
Tensor einsum(std::string_view equation, const std::vector<Tensor>& operands, Loc loc = Loc::current());

// The sum over pairs of axes: a's axes_a beside b's axes_b, whose sizes must agree (or be 1). The result has a's other
// axes, then b's. Errors: ShapeError, IndexError, ValueError (an axis twice).
Tensor tensordot(const Tensor& a, const Tensor& b, const Dims& axes_a, const Dims& axes_b, Loc loc = Loc::current());
// Over the last `count` axes of a and the first ones of b.
Tensor tensordot(const Tensor& a, const Tensor& b, int64_t count = 2, Loc loc = Loc::current());

}  // namespace flame
