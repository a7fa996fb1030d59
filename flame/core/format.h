// Internal: fmt-formatted failures. Kept out of public headers, since fmt is slow to compile.
#pragma once
#include <fmt/format.h>

#include "flame/core/dtype.h"
#include "flame/core/error.h"
#include "flame/core/shape.h"

template <>
struct fmt::formatter<flame::Dims> : fmt::formatter<std::string> {
  template <class Context>
  auto format(const flame::Dims& d, Context& ctx) const {
    return fmt::formatter<std::string>::format(flame::to_string(d), ctx);
  }
};
template <>
struct fmt::formatter<flame::DType> : fmt::formatter<std::string_view> {
  template <class Context>
  auto format(flame::DType t, Context& ctx) const {
    return fmt::formatter<std::string_view>::format(flame::name_of(t), ctx);
  }
};

namespace flame {

// fail<ShapeError>(loc, "matmul: inner sizes {} and {} differ", a, b);
template <class E, class... Args>
[[noreturn]] void fail(Loc loc, fmt::format_string<Args...> format, Args&&... args) {
  throw E(fmt::format(format, std::forward<Args>(args)...), loc);
}

// Turns a possibly negative axis of `op` into 0..rank-1, or throws IndexError.
inline int normalize_axis(const char* op, int64_t axis, int rank, Loc loc) {
  const int64_t a = axis < 0 ? axis + rank : axis;
  if (a < 0 || a >= rank) fail<IndexError>(loc, "{}: axis {} is out of range for rank {}", op, axis, rank);
  return static_cast<int>(a);
}

}  // namespace flame
