// What the kernels that order rows share: elements as unsigned keys whose order is the sort's, rows of any strides, and where
// results go.
#pragma once
#include "flame/fuse/device.cuh"

namespace flame {

template <class V>
struct Raw {
  using type = std::make_unsigned_t<V>;
};
template <>
struct Raw<bool> {
  using type = uint8_t;
};
template <>
struct Raw<half> {
  using type = uint16_t;
};
template <>
struct Raw<bhalf> {
  using type = uint16_t;
};
template <>
struct Raw<float> {
  using type = uint32_t;
};
template <>
struct Raw<double> {
  using type = uint64_t;
};
template <int bytes>
struct KeyOf {
  using type = uint32_t;
};
template <>
struct KeyOf<8> {
  using type = uint64_t;
};

// Keys of a dtype: as many bits as it has, rising with the element (falling if asked for); equal for 0 and -0, and the same,
// the greatest, for every NaN.
template <class V>
struct Keys {
  using K = typename KeyOf<sizeof(V)>::type;
  using Bits = typename Raw<V>::type;
  static constexpr bool integral = std::is_integral_v<V>;
  static constexpr int bits = 8 * sizeof(V);
  static constexpr K all = static_cast<K>(~0ull >> (64 - bits)), top = K(1) << (bits - 1);
  static constexpr K nan = all;

  static K rising(V v) {
    const K u = std::bit_cast<Bits>(v);
    if constexpr (integral) {
      return std::is_unsigned_v<V> ? u : u ^ top;
    } else if constexpr (std::is_same_v<V, float>) {  // adding 0 turns -0 into 0, and every NaN into 0x7fffffff
      const uint32_t sum = __float_as_uint(__fadd_rn(v, 0.0f));
      return sum ^ (static_cast<uint32_t>(static_cast<int32_t>(sum) >> 31) | top);
    } else {
      const auto x = widen(v);
      if (x != x) return nan;
      return u > top ? ~u & all : u | top;  // -0 is no more than the top bit
    }
  }
  static K of(V v, bool descending) { return descending ? ~rising(v) & all : rising(v); }
  // Whether the key tells the element: not where zeros or NaN meet.
  static bool tells(K key, bool descending) {
    if (integral) return true;
    const K k = descending ? ~key & all : key;
    return k != top && k != nan;
  }
  static V value(K key, bool descending) {
    const K k = descending ? ~key & all : key;
    if constexpr (integral) return std::bit_cast<V>(static_cast<Bits>(std::is_unsigned_v<V> ? k : k ^ top));
    else return std::bit_cast<V>(static_cast<Bits>(k & top ? k ^ top : ~k & all));
  }
};

// The same pointer; what is read beside it takes no other way there.
template <class P>
P* settled(P* p) {
  asm("" : "+l"(p));
  return p;
}

// Over the rows: sizes of the other axes, and strides of x and of the results, of which `wanted` from the `first` place in
// order on are given. `middle`: the first NaN instead, if there is one.
struct Rows {
  int64_t rows, n, padded, rank, x_step, y_step, wanted, first, middle, descending;
  int64_t shape[8], x[8], y[8];
};
inline void row_at(const Rows& r, int64_t row, int64_t& x, int64_t& y) {
  x = y = 0;
  each_axis(row, r.rank, r.shape, [&](int i, int64_t k) {
    x += k * r.x[i];
    y += k * r.y[i];
  });
}

}  // namespace flame
