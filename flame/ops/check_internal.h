// Internal: checks that many ops make, worded alike: op named, expected and got, at the caller's line.
#pragma once
#include <initializer_list>

#include "flame/core/format.h"
#include "flame/tensor/tensor.h"

namespace flame {

inline void check_defined(const char* op, const Tensor& x, Loc loc) {
  if (!x.defined()) fail<ValueError>(loc, "{}: expected a defined tensor, got an undefined one", op);
}

// All of `needed` are defined, and they and those of `optional` that are lie on one device.
inline void check_inputs(const char* op, std::initializer_list<const Tensor*> needed,
                         std::initializer_list<const Tensor*> optional, Loc loc) {
  for (const Tensor* t : needed) check_defined(op, *t, loc);
  const Device* first = nullptr;
  for (const auto& list : {needed, optional})
    for (const Tensor* t : list) {
      if (!t->defined()) continue;
      if (!first) first = &t->device();
      if (&t->device() != first)
        fail<DeviceError>(loc, "{}: expected all tensors on one device, got {} and {}", op, first->name(),
                          t->device().name());
    }
}
inline void check_inputs(const char* op, std::initializer_list<const Tensor*> needed, Loc loc) {
  check_inputs(op, needed, {}, loc);
}

// Sizes of a tensor to be made: none negative, and their product fits.
inline void check_sizes(const char* op, const Shape& shape, Loc loc) {
  for (int64_t size : shape)
    if (size < 0) fail<ShapeError>(loc, "{}: expected sizes of 0 or more, got {}", op, shape);
  try {
    checked_numel(shape);
  } catch (const ShapeError&) { fail<ShapeError>(loc, "{}: shape {} has more than 2^60 elements", op, shape); }
}

// A new axis needs room.
inline void check_room(const char* op, const Tensor& x, Loc loc) {
  if (x.rank() == max_rank)
    fail<ShapeError>(loc, "{}: expected a tensor of rank {} at most, got shape {}", op, max_rank - 1, x.shape());
}

}  // namespace flame
