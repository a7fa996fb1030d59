// Internal: deterministic inputs for the registry's samples, dense and otherwise laid out.
#pragma once
#include <vector>

#include "flame/core/philox.h"
#include "flame/tensor/op.h"

namespace flame::samples {

// Row-major numbers spread evenly at random over [low, high), the same for every dtype but for rounding.
inline Tensor uniform(const Shape& shape, DType t, uint64_t seed = 1, double low = -2, double high = 2) {
  std::vector<double> v(static_cast<size_t>(numel(shape)));
  for (size_t i = 0; i < v.size(); ++i) v[i] = low + (high - low) * 0x1p-32 * philox(seed, i, 0x5a3)[0];
  return Tensor::from(v, shape).to(t);
}
// The same numbers read through swapped last axes of their storage.
inline Tensor transposed(Shape shape, DType t, uint64_t seed = 1, double low = -2, double high = 2) {
  const int n = shape.rank();
  std::swap(shape[n - 2], shape[n - 1]);
  return uniform(shape, t, seed, low, high).t();
}
// A view into a larger storage: it starts later and skips every other element of the last axis.
inline Tensor strided(Shape shape, DType t, uint64_t seed = 1, double low = -2, double high = 2) {
  const int last = shape.rank() - 1;
  const int64_t n = shape[last];
  shape[last] = 2 * n + 3;
  return uniform(shape, t, seed, low, high).slice(last, 2, 2 * n + 2, 2);
}
// Memory in the order N, H, W, C.
inline Tensor channels_last(const Shape& s, DType t, uint64_t seed = 1, double low = -2, double high = 2) {
  return uniform({s[0], s[2], s[3], s[1]}, t, seed, low, high).permute({0, 3, 1, 2});
}
// Integers in [0, classes).
inline Tensor classes(const Shape& shape, int64_t count, uint64_t seed = 1) {
  std::vector<int64_t> v(static_cast<size_t>(numel(shape)));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<int64_t>(philox(seed, i, 0x5a4)[0] % static_cast<uint64_t>(count));
  return Tensor::from(v, shape);
}

}  // namespace flame::samples
