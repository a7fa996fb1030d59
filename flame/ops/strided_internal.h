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

// Copies elements of one size from strides `from` to strides `to`. Adjacent axes that both walk as one are joined.
class StridedCopy {
 public:
  StridedCopy(const Shape& shape, const Strides& to, const Strides& from, size_t element) : element_(element) {
    for (int i = 0; i < shape.rank(); ++i) {
      if (shape[i] == 1) continue;
      const int last = shape_.rank() - 1;
      if (last >= 0 && to_from_[0][last] == to[i] * shape[i] && to_from_[1][last] == from[i] * shape[i]) {
        shape_[last] *= shape[i];
        to_from_[0][last] = to[i];
        to_from_[1][last] = from[i];
      } else {
        shape_.push_back(shape[i]);
        to_from_[0].push_back(to[i]);
        to_from_[1].push_back(from[i]);
      }
    }
    if (shape_.empty()) {
      shape_.push_back(1);
      for (Strides& s : to_from_) s.push_back(1);
    }
  }

  void operator()(void* to, const void* from) const {
    const int64_t n = shape_.back(), total = numel(shape_);
    if (total == 0) return;
    const int64_t to_step = to_from_[0].back(), from_step = to_from_[1].back();
    const int64_t grain = std::max<int64_t>(1, elements_per_piece / n);
    parallel_for(total / n, grain, [&](int64_t begin, int64_t end) {
      RowWalk<2> walk(shape_, to_from_, begin);
      const auto size = static_cast<int64_t>(element_);
      for (int64_t row = begin; row < end; ++row, walk.next()) {
        char* t = static_cast<char*>(to) + walk.at[0] * size;
        const char* f = static_cast<const char*>(from) + walk.at[1] * size;
        if (to_step == 1 && from_step == 1) std::memcpy(t, f, static_cast<size_t>(n * size));
        else copy_row(t, to_step, f, from_step, n);
      }
    });
  }

 private:
  template <class T>
  static void copy_as(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t n) {
    T* t = reinterpret_cast<T*>(to);
    const T* f = reinterpret_cast<const T*>(from);
    for (int64_t i = 0; i < n; ++i) t[i * to_step] = f[i * from_step];
  }
  void copy_row(char* t, int64_t to_step, const char* f, int64_t from_step, int64_t n) const {
    switch (element_) {
      case 1: return copy_as<uint8_t>(t, to_step, f, from_step, n);
      case 2: return copy_as<uint16_t>(t, to_step, f, from_step, n);
      case 4: return copy_as<uint32_t>(t, to_step, f, from_step, n);
      default: return copy_as<uint64_t>(t, to_step, f, from_step, n);
    }
  }

  Shape shape_;
  std::array<Strides, 2> to_from_;
  size_t element_;
};

}  // namespace flame
