// Internal: walks over strided tensors for kernels that move elements without looking at them.
#pragma once
#include <algorithm>
#include <array>
#include <cstring>

#include "flame/core/shape.h"
#include "flame/device/cpu/parallel.h"

namespace flame {

// The places, in elements, of N tensors at the start of each row (the last axis) of `shape`, in row-major order.
template <size_t N>
class RowWalk {
 public:
  RowWalk(const Shape& shape, const std::array<Strides, N>& strides, int64_t first_row)
      : shape_(shape), strides_(strides) {
    for (int d = shape.rank() - 2; d >= 0; --d) {
      index_[d] = first_row % shape[d];
      first_row /= shape[d];
      for (size_t k = 0; k < N; ++k) at[k] += index_[d] * strides[k][d];
    }
  }
  void next() {
    for (int d = shape_.rank() - 2; d >= 0; --d) {
      const bool carry = ++index_[d] == shape_[d];
      for (size_t k = 0; k < N; ++k) at[k] += carry ? strides_[k][d] * (1 - shape_[d]) : strides_[k][d];
      if (!carry) return;
      index_[d] = 0;
    }
  }
  std::array<int64_t, N> at{};

 private:
  const Shape& shape_;
  const std::array<Strides, N>& strides_;
  Dims index_ = Dims::filled(max_rank, 0);
};

inline constexpr int64_t elements_per_piece = 16384;  // of a parallel loop that only moves elements

// Sizes and strides of two tensors walked together. Adjacent axes that both walk as one are joined; at least one is left.
struct JoinedAxes {
  JoinedAxes(const Shape& from, const Strides& a, const Strides& b) {
    for (int i = 0; i < from.rank(); ++i) {
      if (from[i] == 1) continue;
      const int last = shape.rank() - 1;
      if (last >= 0 && strides[0][last] == a[i] * from[i] && strides[1][last] == b[i] * from[i]) {
        shape[last] *= from[i];
        strides[0][last] = a[i];
        strides[1][last] = b[i];
      } else {
        shape.push_back(from[i]);
        strides[0].push_back(a[i]);
        strides[1].push_back(b[i]);
      }
    }
    if (shape.empty()) {
      shape.push_back(1);
      for (Strides& s : strides) s.push_back(1);
    }
  }
  int64_t columns() const { return shape.back(); }
  int64_t rows() const { return columns() ? numel(shape) / columns() : 0; }
  Shape shape;
  std::array<Strides, 2> strides;
};

// Copies elements of one size from strides `from` to strides `to`.
class StridedCopy {
 public:
  StridedCopy(const Shape& shape, const Strides& to, const Strides& from, size_t element)
      : axes_(shape, to, from), element_(element) {}

  void operator()(void* to, const void* from) const {
    const int64_t n = axes_.columns(), rows = axes_.rows();
    if (rows == 0) return;
    const int64_t to_step = axes_.strides[0].back(), from_step = axes_.strides[1].back();
    const auto size = static_cast<int64_t>(element_);
    if (rows == 1)
      return parallel_for(n, elements_per_piece, [&](int64_t begin, int64_t end) {
        move(static_cast<char*>(to) + begin * to_step * size, to_step,
             static_cast<const char*>(from) + begin * from_step * size, from_step, end - begin);
      });
    parallel_for(rows, std::max<int64_t>(1, elements_per_piece / n), [&](int64_t begin, int64_t end) {
      RowWalk<2> walk(axes_.shape, axes_.strides, begin);
      for (int64_t row = begin; row < end; ++row, walk.next())
        move(static_cast<char*>(to) + walk.at[0] * size, to_step, static_cast<const char*>(from) + walk.at[1] * size,
             from_step, n);
    });
  }

 private:
  template <class T>
  static void copy_as(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t n) {
    T* t = reinterpret_cast<T*>(to);
    const T* f = reinterpret_cast<const T*>(from);
    for (int64_t i = 0; i < n; ++i) t[i * to_step] = f[i * from_step];
  }
  void move(char* t, int64_t to_step, const char* f, int64_t from_step, int64_t n) const {
    if (to_step == 1 && from_step == 1) return static_cast<void>(std::memcpy(t, f, static_cast<size_t>(n) * element_));
    switch (element_) {
      case 1: return copy_as<uint8_t>(t, to_step, f, from_step, n);
      case 2: return copy_as<uint16_t>(t, to_step, f, from_step, n);
      case 4: return copy_as<uint32_t>(t, to_step, f, from_step, n);
      default: return copy_as<uint64_t>(t, to_step, f, from_step, n);
    }
  }

  JoinedAxes axes_;
  size_t element_;
};

}  // namespace flame
