// Internal: a pointwise op by its code, for loops over the table.
#pragma once
#include <span>

#include "flame/fuse/island.h"
#include "flame/ops/pointwise.h"

namespace flame {

Tensor call_pointwise(Code code, std::span<const Arg> in, Loc loc = Loc::current());

}  // namespace flame
