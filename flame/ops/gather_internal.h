// Internal: what ops that read and write by index share: the walk over an index, and the check of its values.
#pragma once
#include <fmt/format.h>

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/cpu/strided_copy.h"
#include "flame/device/out_of_range.h"

namespace flame {

// An axis that an index points into.
struct Target {
  const char* op;
  int axis;  // of the user's tensor
  int64_t size;
  bool wraps = false;  // negative numbers count from the end
  int64_t operator()(int64_t i) const {
    const int64_t at = wraps && i < 0 ? i + size : i;
    if (at < 0 || at >= size) [[unlikely]]
      refuse(i);
    return at;
  }
  [[noreturn, gnu::noinline]] void refuse(int64_t i) const {  // apart, to keep the loops small
    throw OutOfRange(fmt::format("{}: index {} is out of range for axis {} of size {}", op, i, axis, size));
  }
};
// Runs an op whose kernel may meet a bad index, and reports it at the caller's line.
inline Tensor dispatch_checked(const Ref<Op>& op, std::span<const Tensor> in, Loc loc) {
  return at_line(loc, [&] { return dispatch(op, in, loc); });
}
inline Tensor dispatch_checked(const Ref<Op>& op, std::initializer_list<Tensor> in, Loc loc) {
  return dispatch_checked(op, std::span<const Tensor>(in.begin(), in.size()), loc);
}

// Kernels move whole elements of 1, 2, 4 or 8 bytes.
template <class F>
auto visit_size(size_t element, F&& fn) {
  switch (element) {
    case 1: return fn(uint8_t{});
    case 2: return fn(uint16_t{});
    case 4: return fn(uint32_t{});
    default: return fn(uint64_t{});
  }
}

// A walk over an index, row by row, beside a tensor of its shape ("small") and one that it points into ("big").
struct IndexWalk {
  Shape shape;
  std::array<Strides, 3> strides;  // small, index, big without its walk along the axis
  Target target;
  int64_t step;  // of the big tensor along the axis

  IndexWalk(const char* op, const Meta& small, const Meta& index, const Meta& big, int axis)
      : shape(index.shape),
        strides{small.strides, index.strides, big.strides},
        target{op, axis, big.shape[axis]},
        step(big.strides[axis]) {
    strides[2][axis] = 0;
  }
  int64_t columns() const { return shape.back(); }
  int64_t rows() const { return columns() ? numel(shape) / columns() : 0; }
};

inline Tensor checked_index(const char* op, const Tensor& index, Loc loc) {
  if (index.dtype() != DType::i64 && index.dtype() != DType::i32)
    fail<DTypeError>(loc, "{}: expected an index of int64 or int32, got {}", op, index.dtype());
  return index.to(DType::i64, loc);
}
// Ranks equal, and the index no larger than x beside `axis`.
inline int checked_axis(const char* op, const Tensor& x, int64_t axis, const Tensor& index, Loc loc) {
  const int a = normalize_axis(op, axis, x.rank(), loc);
  bool fits = index.rank() == x.rank();
  for (int i = 0; fits && i < x.rank(); ++i) fits = i == a || index.shape()[i] <= x.shape()[i];
  if (!fits) fail<ShapeError>(loc, "{}: index {} does not fit into {} along axis {}", op, index.shape(), x.shape(), a);
  return a;
}
// Rank 0 counts as one element along one axis.
inline Tensor with_axis(const Tensor& x, Loc loc) { return x.rank() == 0 ? x.reshape({1}, loc) : x; }

// Zeros of `shape`, plus src at index: the gradient of gather. 16-bit sums are kept in float32.
Tensor scatter_zeros(const char* op, const Shape& shape, int axis, const Tensor& index, const Tensor& src, Loc loc);
// base plus that, each rounded by itself; of one dtype, on a GPU, without a graph.
Tensor scatter_behind(const char* op, const Tensor& base, int axis, const Tensor& index, const Tensor& src, Loc loc);

}  // namespace flame
