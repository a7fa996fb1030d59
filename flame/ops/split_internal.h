// Internal: divisors as device code takes them, whose quotients are the upper half of a product.
#pragma once
#include <bit>
#include <cstdint>

namespace flame {

// As in fuse/device.cuh: for a below 2^31 and n from 2 up, a / n = (a * multiplier >> 32) >> shift.
struct Split {
  int64_t n = 1;
  uint32_t multiplier = 0, shift = 0;
  Split() = default;
  explicit Split(int64_t divisor) : n(divisor) {
    if (n < 2 || n >= int64_t{1} << 31) return;
    const int bits =
        std::bit_width(static_cast<uint64_t>(n - 1));  // Granlund and Montgomery, PLDI 1994: 31 + ceil(log2 n)
    multiplier =
        static_cast<uint32_t>(((uint64_t{1} << (31 + bits)) + static_cast<uint64_t>(n) - 1) / static_cast<uint64_t>(n));
    shift = static_cast<uint32_t>(bits - 1);
  }
};

}  // namespace flame
