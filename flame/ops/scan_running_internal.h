// Internal: running sums and products on the CPU. Long lines go by pieces of fixed size, so that one line uses all threads.
#pragma once
#include <type_traits>
#include <vector>

#include "flame/core/dtype.h"
#include "flame/ops/scan_internal.h"

namespace flame::running {

// What a running value is kept in: wider than the elements, so that a long line loses nothing. Integers wrap.
template <class T>
using Running = std::conditional_t<std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>, float,
                                   std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>>;
template <class T>
Running<T> widened(T v) {
  if constexpr (std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>) return static_cast<float>(v);
  else return static_cast<Running<T>>(v);
}
template <class T>
using Result = std::conditional_t<std::is_integral_v<T>, int64_t, T>;
inline DType result_of(DType t) { return is_float(t) ? t : DType::i64; }

struct Sum {
  static constexpr const char* name = "cumsum";
  template <class R>
  static R join(R a, R b) {
    return a + b;
  }
  static constexpr int identity = 0;
};
struct Product {
  static constexpr const char* name = "cumprod";
  template <class R>
  static R join(R a, R b) {
    return a * b;
  }
  static constexpr int identity = 1;
};

constexpr int64_t piece = 8192;  // elements of a line that start from what those before them come to

// One line after the other, each by pieces: what every piece comes to, then the running values from there on.
template <class J, class T>
void scan_long_lines(const Lines<2>& l, const T* x, Result<T>* out) {
  using R = Running<T>;
  const int64_t pieces = (l.n + piece - 1) / piece;
  std::vector<R> starts(static_cast<size_t>(pieces));
  const auto line = [&](const std::array<int64_t, 2>& at) {
    const auto each_piece = [&](auto&& fn) {
      parallel_for(pieces, 1, [&](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c)
          fn(c, x + at[0] + c * piece * l.along[0], std::min(piece, l.n - c * piece));
      });
    };
    each_piece([&](int64_t c, const T* from, int64_t n) {
      R part[4] = {J::identity, J::identity, J::identity, J::identity};
      for (int64_t i = 0; i + 4 <= n; i += 4)
        for (int64_t k = 0; k < 4; ++k) part[k] = J::join(part[k], widened(from[(i + k) * l.along[0]]));
      for (int64_t i = n & ~int64_t{3}; i < n; ++i) part[0] = J::join(part[0], widened(from[i * l.along[0]]));
      starts[static_cast<size_t>(c)] = J::join(J::join(part[0], part[1]), J::join(part[2], part[3]));
    });
    R before = J::identity;
    for (R& s : starts) before = J::join(std::exchange(s, before), before);
    each_piece([&](int64_t c, const T* from, int64_t n) {
      R r = starts[static_cast<size_t>(c)];
      Result<T>* to = out + at[1] + c * piece * l.along[1];
      for (int64_t i = 0; i < n; ++i) {
        r = J::join(r, widened(from[i * l.along[0]]));
        to[i * l.along[1]] = static_cast<Result<T>>(r);
      }
    });
  };
  l.each_line(line);
}

template <class J, class T>
void scan_all(const Lines<2>& l, const T* x, Result<T>* out) {
  if (l.count() < 8 && l.n > 2 * piece) return scan_long_lines<J>(l, x, out);
  l.each([&](const std::array<int64_t, 2>& at, int64_t width) {
    walk_lines(l, at, width, Running<T>(J::identity), [&](Running<T>& r, const std::array<int64_t, 2>& i, int64_t) {
      r = J::join(r, widened(x[i[0]]));
      out[i[1]] = static_cast<Result<T>>(r);
    });
  });
}

}  // namespace flame::running
