// Options of ops over one to three axes: one number for all axes, or one each.
#pragma once
#include <array>
#include <concepts>
#include <cstdint>

#include "flame/core/shape.h"

namespace flame {

template <int axes>
class PerAxis {
 public:
  template <std::integral T>
  PerAxis(T all) {
    each_.fill(static_cast<int64_t>(all));
  }
  template <std::integral... T>
    requires(sizeof...(T) == axes && axes > 1)
  PerAxis(T... each) : each_{static_cast<int64_t>(each)...} {}
  int64_t operator[](int axis) const { return each_[static_cast<size_t>(axis)]; }
  Dims dims() const { return Dims(std::span<const int64_t>(each_)); }
  bool operator==(const PerAxis&) const = default;

 private:
  std::array<int64_t, static_cast<size_t>(axes)> each_;
};
using Pair = PerAxis<2>;  // height, width

}  // namespace flame
