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
      : axes_(shape, to, from), element_(element) {
    // The axis along which the source lies dense, if the last one is not it: squares of the two are turned.
    const int last = axes_.shape.rank() - 1;
    if (axes_.strides[0][last] != 1 || axes_.strides[1][last] == 1 || axes_.shape[last] < side) return;
    for (int i = 0; i < last; ++i)
      if (axes_.strides[1][i] == 1 && axes_.shape[i] >= side) turned_ = i;
  }

  void operator()(void* to, const void* from) const {
    const int64_t n = axes_.columns(), rows = axes_.rows();
    if (rows == 0) return;
    if (turned_ >= 0) return turn(static_cast<char*>(to), static_cast<const char*>(from));
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
  static constexpr int64_t side = 16;

  // Squares of `side` rows and columns: each line of the source and of the copy is in use once, whatever the strides.
  void turn(char* to, const char* from) const {
    Shape squares = axes_.shape;
    std::array<Strides, 2> strides = axes_.strides;
    const int last = squares.rank() - 1;
    for (int axis : {turned_, last}) {
      squares[axis] = (squares[axis] + side - 1) / side;
      for (Strides& s : strides) s[axis] *= side;
    }
    // Rows of squares: the walk skips the last axis, which the loop below takes.
    const int64_t rows = numel(squares) / squares[last], high = axes_.shape[turned_], wide = axes_.shape[last];
    int64_t below = 1;  // rows between squares that are neighbours along the turned axis
    for (int i = turned_ + 1; i < last; ++i) below *= squares[i];
    const auto size = static_cast<int64_t>(element_);
    const int64_t to_step = axes_.strides[0][turned_] * size, from_step = axes_.strides[1][last] * size;
    parallel_for(rows, std::max<int64_t>(1, elements_per_piece / (wide * side)), [&](int64_t begin, int64_t end) {
      RowWalk<2> walk(squares, strides, begin);
      for (int64_t row = begin; row < end; ++row, walk.next()) {
        const int64_t height = std::min(side, high - row / below % squares[turned_] * side);
        for (int64_t c = 0; c < wide; c += side) {
          char* t = to + (walk.at[0] + c) * size;
          const char* f = from + walk.at[1] * size + c * from_step;
          if (element_ == 4 && height == side && c + side <= wide) turn_whole(t, to_step, f, from_step);
          else by_element([&](auto x) { turn_part(x, t, to_step, f, from_step, height, std::min(side, wide - c)); });
        }
      }
    });
  }
  // Lines move whole between memory and a square of their own, since lines at a large power of two share few places in
  // the cache.
  template <class T>
  static void turn_part(T, char* to, int64_t to_step, const char* from, int64_t from_step, int64_t rows,
                        int64_t columns) {
    T square[side][side];
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < rows; ++r) square[r][c] = reinterpret_cast<const T*>(from + c * from_step)[r];
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(to + r * to_step, square[r], static_cast<size_t>(columns) * sizeof(T));
  }
  static void turn_whole(char* to, int64_t to_step, const char* from, int64_t from_step) {
    using Four = uint32_t __attribute__((vector_size(16)));
    Four in[side][side / 4], out[side][side / 4];
    for (int64_t c = 0; c < side; ++c) std::memcpy(in[c], from + c * from_step, sizeof(in[c]));
    for (int64_t c = 0; c < side; c += 4)
      for (int64_t r = 0; r < side; r += 4) {
        const Four x0 = in[c][r / 4], x1 = in[c + 1][r / 4], x2 = in[c + 2][r / 4], x3 = in[c + 3][r / 4];
        const Four a = __builtin_shufflevector(x0, x1, 0, 4, 1, 5), b = __builtin_shufflevector(x2, x3, 0, 4, 1, 5);
        const Four e = __builtin_shufflevector(x0, x1, 2, 6, 3, 7), f = __builtin_shufflevector(x2, x3, 2, 6, 3, 7);
        out[r][c / 4] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
        out[r + 1][c / 4] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
        out[r + 2][c / 4] = __builtin_shufflevector(e, f, 0, 1, 4, 5);
        out[r + 3][c / 4] = __builtin_shufflevector(e, f, 2, 3, 6, 7);
      }
    for (int64_t r = 0; r < side; ++r) std::memcpy(to + r * to_step, out[r], sizeof(out[r]));
  }
  template <class F>
  void by_element(F&& fn) const {
    switch (element_) {
      case 1: return fn(uint8_t{});
      case 2: return fn(uint16_t{});
      case 4: return fn(uint32_t{});
      default: return fn(uint64_t{});
    }
  }
  template <class T>
  static void copy_as(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t n) {
    T* t = reinterpret_cast<T*>(to);
    const T* f = reinterpret_cast<const T*>(from);
    for (int64_t i = 0; i < n; ++i) t[i * to_step] = f[i * from_step];
  }
  void move(char* t, int64_t to_step, const char* f, int64_t from_step, int64_t n) const {
    if (to_step == 1 && from_step == 1) return static_cast<void>(std::memcpy(t, f, static_cast<size_t>(n) * element_));
    by_element([&](auto x) { copy_as<decltype(x)>(t, to_step, f, from_step, n); });
  }

  JoinedAxes axes_;
  size_t element_;
  int turned_ = -1;
};

}  // namespace flame
