// NumPy's indexing: x.index({0, Slice{1, 5}, ellipsis, new_axis, mask, rows}) reads, x.set({...}, value) gives a copy of x
// with `value` there. Gradients flow to x and to the value.
//
// An integer takes one element of an axis, a Slice several (views, both); an index tensor (int64, int32) picks elements by
// number, a mask (bool) of rank k those of k axes that are true. Several index tensors broadcast against each other and
// walk their axes together; their shape stands where the first of them stands, or in front if other axes lie between them.
// Negative numbers count from the end. A mask is counted on the host, so inside a recorded step it throws RecordError;
// setting a value that does not depend on the count needs no such read. Errors: IndexError, ShapeError, DTypeError.
#pragma once
#include <concepts>
#include <optional>
#include <variant>

#include "flame/ops/pointwise.h"

namespace flame {

// start, start + step, ... before stop, as Python's start:stop:step; steps may be negative.
struct Slice {
  std::optional<int64_t> start = {}, stop = {};
  int64_t step = 1;
};
struct Ellipsis {};  // as many whole axes as are left
struct NewAxis {};   // an axis of size 1
inline constexpr Ellipsis ellipsis;
inline constexpr NewAxis new_axis;

class Index {
 public:
  using Kind = std::variant<int64_t, bool, Slice, Ellipsis, NewAxis, Tensor>;
  template <std::integral T>
  Index(T i) : kind_(std::in_place_type<std::conditional_t<std::is_same_v<T, bool>, bool, int64_t>>, i) {}
  Index(const Slice& s) : kind_(s) {}
  Index(Ellipsis e) : kind_(e) {}
  Index(NewAxis n) : kind_(n) {}
  Index(const Tensor& t) : kind_(t) {}
  const Kind& kind() const { return kind_; }

 private:
  Kind kind_;
};

}  // namespace flame
