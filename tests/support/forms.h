// The same values in other layouts: transposed, at an offset, every second element, backwards, expanded.
#pragma once
#include <numeric>

#include "tests/support/compare.h"

namespace flame::test {

enum class Form { dense, transposed, offset, gaps, backwards, expanded };
inline constexpr Form all_forms[] = {Form::dense, Form::transposed, Form::offset,
                                     Form::gaps,  Form::backwards,  Form::expanded};
inline const char* name_of(Form f) {
  constexpr const char* names[] = {"dense", "transposed", "offset", "gaps", "backwards", "expanded"};
  return names[static_cast<int>(f)];
}

// Row-major copy through the host, so that no kernel is between a test and its inputs.
inline Tensor dense(const Tensor& x) {
  const auto raw = bytes(x);
  return Tensor::from_host(raw.data(), static_cast<size_t>(x.numel()), x.dtype(), x.shape(), x.device());
}

// `shape` filled with elements of x: out[i...] = x[start + i * step] along the last axis, junk where that leaves x.
inline Tensor spread(const Tensor& x, int64_t size, int64_t start, int64_t step) {
  const auto raw = bytes(x);
  const size_t element = size_of(x.dtype());
  const int64_t n = x.shape().back();
  int64_t rows = 1;
  for (int i = 0; i + 1 < x.rank(); ++i) rows *= x.shape()[i];
  std::vector<unsigned char> wide(static_cast<size_t>(rows * size) * element, 0x5b);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < n; ++i)
      std::memcpy(wide.data() + static_cast<size_t>(r * size + start + i * step) * element,
                  raw.data() + static_cast<size_t>(r * n + i) * element, element);
  Shape shape = x.shape();
  shape[shape.rank() - 1] = size;
  return Tensor::from_host(wide.data(), static_cast<size_t>(rows * size), x.dtype(), shape, x.device());
}

// x in another form; the values stay, except that an expanded tensor repeats its first slice. Forms that a shape
// cannot have fall back to dense.
inline Tensor in_form(const Tensor& x, Form f) {
  const int last = x.rank() - 1;
  const int64_t n = last >= 0 ? x.shape()[last] : 1;
  switch (f) {
    case Form::dense: break;
    case Form::transposed: {
      if (x.rank() < 2) break;
      Dims order;
      for (int i = last; i >= 0; --i) order.push_back(i);
      return dense(x.permute(order)).permute(order);
    }
    case Form::offset:
      if (x.rank() == 0) return spread(dense(x).reshape({1}), 3, 1, 1).select(0, 1);
      return spread(x, n + 3, 2, 1).narrow(last, 2, n);
    case Form::gaps:
      if (x.rank() == 0) break;
      return spread(x, 2 * n + 3, 1, 2).slice(last, 1, 1 + 2 * n, 2);
    case Form::backwards:
      if (x.rank() == 0) break;
      return spread(x, n, n - 1, -1).slice(last, -1, -n - 1, -1);
    case Form::expanded:
      for (int i = 0; i < x.rank(); ++i)
        if (x.shape()[i] > 1) return dense(x.narrow(i, 0, 1)).expand(x.shape());
      break;
  }
  return dense(x);
}

// Values in float64, row-major, for the reference.
inline Tensor doubled(const Tensor& x) {
  if (!x.defined() || !is_float(x.dtype())) return x.defined() ? dense(x) : x;
  return Tensor::from(numbers(x), x.shape(), x.device());
}

}  // namespace flame::test
