// Islands: pointwise ops and reductions are noted here as pending values and run together, one kernel an island.
// An island belongs to its thread. Boundaries depend on the op sequence and handle lifetimes alone.
#pragma once
#include <array>

#include "flame/fuse/fusion.h"
#include "flame/tensor/draw.h"
#include "flame/tensor/tensor.h"

namespace flame {

// One code per row of pointwise.def, in its order, then the built-in ones.
enum class Code : uint16_t {
#define FLAME_POINTWISE(name, ...) name,
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
  copy,     // y = a, with a cast to the output dtype
  iota,     // y = s0 + s1 * (index along axis); no inputs
  dropout,  // y = s1 * a where kept, else 0
  count
};
enum class Reduce : uint8_t { sum, prod, max, min, any, all };  // max and min propagate NaN

// An input of a pending op: a tensor's value, or a number (an argument, never part of a kernel's key).
struct Operand {
  const Ref<Value>* value = nullptr;
  Scalar scalar = 0.0;
  Operand(const Ref<Value>& v) : value(&v) {}
  Operand(const Tensor& t) : value(&t.value_ref()) {}
  Operand(const Scalar& s) : scalar(s) {}
};

// A pending elementwise op over the broadcast of its inputs. All inputs have dtype `compute` (cast them first; `where`'s
// condition is bool); the result has dtype `out`. 16-bit results are rounded at every op. Shapes must fit (checked by callers).
Ref<Value> pend_pointwise(Code code, DType out, const Shape& shape, std::initializer_list<Operand> in, Device& d,
                          Loc where = Loc::current());
// A cast or a copy to the given layout (contiguous unless `strides` is given).
Ref<Value> pend_copy(const Ref<Value>& x, DType out, const Strides* strides = nullptr);
// start + step * index along `axis`.
Ref<Value> pend_iota(const Shape& shape, DType t, int axis, Scalar start, Scalar step, Device& d);
// `scale` times x, where the word that `draw` has for an element, by its number in C order, is `last` or less; elsewhere 0. No
// word is kept: whoever asks with the same draw gets the same ones.
Ref<Value> pend_dropout(const Ref<Value>& x, const Draw& draw, uint32_t last, double scale, Loc where = Loc::current());
// A reduction over the axes whose bit is set; they stay with size 1. Empty reductions give the identity (callers check max, min).
Ref<Value> pend_reduce(Reduce r, const Ref<Value>& x, uint32_t axis_mask);
// The same elements under another shape, size-1 axes added or dropped; works on pending values without running them.
Ref<Value> pend_reshape_ones(const Ref<Value>& x, const Shape& shape);

// What `x` is a pending cast of, in 16 bits and the same layout; null if it is something else. The cast stays pending.
Ref<Value> before_widening(const Ref<Value>& x);

// Whether `x` is pending and one everywhere, as the gradient that a backward pass begins with is.
bool is_pending_one(const Ref<Value>& x);

// `x` has been cast by an op, and whoever holds it has likely no more use for it, such as for a norm's result in float32 between
// two ops: if it is pending, flushes for another value leave it so, that it may die unwritten.
void note_passing(const Value& x);

// An op will read `x`, which may be pending, beside others: a flush for one of them is for all.
void note_read(const Value& x);

// A node of the graph keeps `x`, which may be pending, or keeps it no longer. What it can be made of again by a few cheap ops on no more
// bytes is not written for its sake.
void note_kept(const Value& x, bool kept);

// Whether sums over the rows of what an island makes, a matrix of `rows` rows of `length`, are left to that island rather than
// to an op's own kernel: where they are part of the launch, they read nothing.
bool sums_beside_rows(const Device& d, int64_t rows, int64_t length);
// The same for the sums of x over all axes but the last; only while x is pending, and no other axes of its columns are being summed.
bool sums_beside_rows(const Value& x);

void note_flush_reason(const char* reason);  // literal; the cause of the next flush

}  // namespace flame
