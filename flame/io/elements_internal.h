// Internal: element types that files of several formats hold, and the way from their bytes to a dtype. Integers that
// FLAME lacks are widened to the narrowest dtype that holds all their values: int16 and uint16 to int32, uint32 to
// int64.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "flame/core/dtype.h"
#include "flame/core/error.h"
#include "flame/core/shape.h"

namespace flame::io {

enum class Element : uint8_t { boolean, u8, i8, u16, i16, u32, i32, i64, f16, bf16, f32, f64 };

size_t size_of(Element e);  // in the file
DType dtype_of(Element e);  // in a tensor

// Where bytes come from, for messages: "'model.npz': member 'a.npy'", and how far from there they begin.
struct Origin {
  std::string name;
  uint64_t at = 0;
};

// `count` elements at `src`, of any alignment, to `dst` as dtype_of(e). `swap`: the file has the other byte order.
// FormatError where a boolean is neither 0 nor 1. `src` may lie in `dst`, at its start or with its end at the end of it.
void convert_elements(void* dst, const std::byte* src, size_t count, Element e, bool swap, const Origin& from, Loc loc);

// A name from a file, for a message: control characters as \x00, at most 100 characters.
std::string printable(std::string_view name);

// Bytes of `shape`, or nothing if the product of its sizes does not fit, even where another size is 0.
std::optional<uint64_t> byte_size(size_t element, const Shape& shape);

}  // namespace flame::io
