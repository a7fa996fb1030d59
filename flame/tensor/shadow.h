// Internal: a State's value in 16 bits, for code that computes in them. Made when it is first asked for, at an address that
// stays; who writes the State refreshes it, an optimizer in its own launch, anyone else by marking it for the next use.
#pragma once
#include <optional>

#include "flame/tensor/tensor.h"

namespace flame {

// `v`, a float32 State's value or a view of it, in float16 or bfloat16.
Ref<Value> shadow_of(const Value& v, DType t, Loc loc);

// For a launch that writes a State and its shadow in one: the dtype of the shadow in use, if there is one; what to write
// through, after the State's own begin_write; and, with the launch made, that the two agree.
std::optional<DType> shadow_in_use(const State& s);
Value& begin_shadow_write(const State& s, DType t, Loc loc);
void shadow_written(const State& s, DType t);

}  // namespace flame
