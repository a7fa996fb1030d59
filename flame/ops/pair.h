// Options of two-dimensional ops: one number for both axes, or one each.
#pragma once
#include <concepts>
#include <cstdint>

namespace flame {

struct Pair {
  int64_t height, width;
  template <std::integral T>
  Pair(T both) : height(static_cast<int64_t>(both)), width(height) {}
  Pair(int64_t height, int64_t width) : height(height), width(width) {}
  int64_t operator[](int axis) const { return axis == 0 ? height : width; }
  bool operator==(const Pair&) const = default;
};

}  // namespace flame
