// Internal: elements as unsigned keys whose order is the sort's, beside their places, so that no two entries are equal
// and every sort is a stable one. Long rows are sorted by digits, short ones by comparison.
#pragma once
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <vector>

#include "flame/core/dtype.h"

namespace flame {

// A key of up to 32 bits above a place of 32 bits; wider keys beside a place of 64.
struct WideEntry {
  uint64_t key, place;
  bool operator<(const WideEntry& o) const { return key != o.key ? key < o.key : place < o.place; }
};
template <class T>
using Entry = std::conditional_t<sizeof(T) == 8, WideEntry, uint64_t>;

template <class T>
struct Order {
  using Bits = std::conditional_t<
      sizeof(T) == 1, uint8_t,
      std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>>;
  static constexpr bool floating = !std::is_integral_v<T>;
  static constexpr int bits = 8 * sizeof(T);
  static constexpr Bits top = static_cast<Bits>(Bits{1} << (bits - 1));
  static constexpr Bits infinity = std::is_same_v<T, float16>    ? static_cast<Bits>(0x7c00u)
                                   : std::is_same_v<T, bfloat16> ? static_cast<Bits>(0x7f80u)
                                   : std::is_same_v<T, float>    ? static_cast<Bits>(0x7f800000u)
                                                                 : static_cast<Bits>(0x7ff0000000000000u);

  // Rising with the element; equal for 0 and -0, and greatest for every NaN.
  static Bits key(T v) {
    Bits u;
    std::memcpy(&u, &v, sizeof v);
    if constexpr (floating) {
      const Bits magnitude = static_cast<Bits>(u & static_cast<Bits>(~top));
      if (magnitude > infinity) return static_cast<Bits>(~Bits{0});
      return static_cast<Bits>(u > top ? ~u : magnitude | top);  // -0 is no more than the top bit
    } else if constexpr (std::is_signed_v<T>) {
      return static_cast<Bits>(u ^ top);
    } else {
      return u;
    }
  }
  static bool is_nan(T v) { return floating && key(v) == static_cast<Bits>(~Bits{0}); }

  static Entry<T> entry(T v, int64_t place, bool descending) {
    const Bits k = descending ? static_cast<Bits>(~key(v)) : key(v);
    if constexpr (sizeof(T) == 8) return {k, static_cast<uint64_t>(place)};
    else return static_cast<uint64_t>(k) << 32 | static_cast<uint64_t>(place);
  }
};

inline int64_t place_of(const WideEntry& e) { return static_cast<int64_t>(e.place); }
inline int64_t place_of(uint64_t e) { return static_cast<int64_t>(e & 0xffffffffu); }
inline uint64_t key_of(const WideEntry& e) { return e.key; }
inline uint64_t key_of(uint64_t e) { return e >> 32; }

// Least significant digit first; entries come in the order of their places. `spare`: n entries. The result is in one of
// the two. Digits that all entries share cost a count only.
template <class E>
E* sort_by_digits(E* a, E* spare, int64_t n, int key_bits) {
  const int digit = n < 8192 || key_bits <= 16 ? 8 : 11, digits = (key_bits + digit - 1) / digit;
  const uint64_t mask = (uint64_t{1} << digit) - 1;
  const size_t size = size_t{1} << digit;
  std::vector<uint32_t> counts(size * static_cast<size_t>(digits));
  for (int64_t i = 0; i < n; ++i) {
    uint64_t k = key_of(a[i]);
    for (int d = 0; d < digits; ++d, k >>= digit) ++counts[static_cast<size_t>(d) * size + (k & mask)];
  }
  for (int d = 0; d < digits; ++d) {
    uint32_t* at = counts.data() + static_cast<size_t>(d) * size;
    const int shift = d * digit;
    if (at[key_of(a[0]) >> shift & mask] == n) continue;
    uint32_t sum = 0;
    for (size_t i = 0; i < size; ++i) sum += std::exchange(at[i], sum);
    for (int64_t i = 0; i < n; ++i) spare[at[key_of(a[i]) >> shift & mask]++] = a[i];
    std::swap(a, spare);
  }
  return a;
}

// The entries in rising order, in `a` or in `spare`.
template <class E>
E* sort_entries(E* a, E* spare, int64_t n, int key_bits) {
  if (n >= 256 && n < std::numeric_limits<uint32_t>::max()) return sort_by_digits(a, spare, n, key_bits);
  std::sort(a, a + n);
  return a;
}

// The `k` smallest entries of a row, 0 < k < n, come to stand first in `buffer`, in no order. next(i) makes entry i, and
// leap(i, e) gives the next one from i on that may be smaller than e. The buffer holds selection_room(k) entries.
constexpr int64_t selection_room(int64_t k) { return 2 * k + 32; }
template <class E, class Next, class Leap>
void select_smallest(E* buffer, int64_t k, int64_t n, const Next& next, const Leap& leap) {
  const int64_t room = selection_room(k);
  int64_t size = std::min(n, room), i = size;
  for (int64_t j = 0; j < size; ++j) buffer[j] = next(j);
  const auto cut = [&] {
    std::nth_element(buffer, buffer + (k - 1), buffer + size);
    size = k;
  };
  cut();
  while ((i = leap(i, buffer[k - 1])) < n) {
    const E e = next(i++);
    if (!(e < buffer[k - 1])) continue;
    buffer[size++] = e;
    if (size == room) cut();
  }
  if (size > k) cut();
}

}  // namespace flame
