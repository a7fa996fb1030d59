// Internal: leaps over elements that cannot change a running extreme, which most of a row cannot.
#pragma once
#include <cstdint>
#include <type_traits>

namespace flame {

// The first of x[i], x[i + 1], ... before n that is beyond `bound` or a NaN; n if there is none. If the bound is a NaN,
// that is i. Elements lie side by side; blocks are looked at as a whole.
template <bool greatest, class T>
int64_t first_beyond(const T* x, int64_t i, int64_t n, T bound) {
  const auto within = [bound](T v) { return greatest ? v <= bound : v >= bound; };
  using Mask = std::conditional_t<sizeof(T) == 8, int64_t, std::conditional_t<sizeof(T) == 4, int32_t, int8_t>>;
  constexpr int64_t block = 128 / sizeof(T);
  for (; i + block <= n; i += block) {
    Mask all = 1;
    for (int64_t k = 0; k < block; ++k) all &= static_cast<Mask>(within(x[i + k]));
    if (!all) break;
  }
  while (i < n && within(x[i])) ++i;
  return i;
}

}  // namespace flame
