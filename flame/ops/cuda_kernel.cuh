// What the text of a user's kernel finds: integer types, flame::half and flame::bhalf with widen() and convert<T>(),
// flame::global_thread(), and the tensors of any strides that KernelView passes.
#pragma once
#include "flame/fuse/device.cuh"

namespace flame {

template <class T>
struct View {
  const T* data;
  int64_t rank;
  int64_t shape[8], strides[8];  // in elements

  int64_t numel() const {
    int64_t n = 1;
    for (int64_t i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  // The element of a place, one coordinate an axis.
  template <class... I>
  const T& operator()(I... at) const {
    const int64_t places[] = {static_cast<int64_t>(at)..., 0};
    int64_t offset = 0;
    for (int i = 0; i < static_cast<int>(sizeof...(at)); ++i) offset += places[i] * strides[i];
    return data[offset];
  }
  // The i-th element in row-major order.
  const T& operator[](int64_t i) const {
    int64_t offset = 0;
    for (int64_t d = rank - 1; d >= 0; --d) {
      offset += i % shape[d] * strides[d];
      i /= shape[d];
    }
    return data[offset];
  }
};

}  // namespace flame
