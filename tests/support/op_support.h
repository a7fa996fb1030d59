// Shared by the tests of ops: walks over indices, and messages of errors.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "flame/tensor/tensor.h"

namespace flame::test {

// Calls fn(index) for every index of `shape`, in row-major order.
template <class F>
void each_index(const Shape& shape, F&& fn) {
  if (numel(shape) == 0) return;
  Dims index = Dims::filled(shape.rank(), 0);
  for (;;) {
    fn(static_cast<const Dims&>(index));
    int d = shape.rank() - 1;
    for (; d >= 0 && ++index[d] == shape[d]; --d) index[d] = 0;
    if (d < 0) return;
  }
}

inline int64_t row_major(const Shape& shape, const Dims& index) {
  int64_t at = 0;
  for (int d = 0; d < shape.rank(); ++d) at = at * shape[d] + index[d];
  return at;
}

// The message of the error of type E that fn throws; fails the test if it throws none or another.
template <class E, class F>
std::string message_of(F&& fn) {
  try {
    fn();
  } catch (const E& e) { return e.what(); } catch (const std::exception& e) {
    ADD_FAILURE() << "another error: " << e.what();
    return e.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}
#define EXPECT_MESSAGE(E, statement, part)                                                  \
  EXPECT_NE(::flame::test::message_of<E>([&] { statement; }).find(part), std::string::npos) \
      << ::flame::test::message_of<E>([&] { statement; })

// 0, 1, 2, ... in a shape.
template <class T = float>
Tensor counting(const Shape& shape) {
  std::vector<T> v(static_cast<size_t>(numel(shape)));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<T>(i);
  return Tensor::from(v, shape);
}

}  // namespace flame::test
