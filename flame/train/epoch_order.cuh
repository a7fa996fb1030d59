// The order of rows in an epoch, as a function of seed, epoch and place alone: the host and the GPU compute it where they
// need it, and no list of numbers is kept.
#pragma once
#include "flame/core/philox.h"

namespace flame {

// Which of n rows stands at a place of an epoch. Each epoch is a permutation: a Feistel network of eight rounds over the next
// power of four, walked until it falls inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
constexpr uint64_t epoch_row(uint64_t seed, uint64_t epoch, uint64_t place, uint64_t n) {
  const PhiloxBlock keys[2] = {philox(seed, epoch, 0), philox(seed, epoch, 1)};
  uint32_t half = 1;
  while (half < 32 && (uint64_t{1} << 2 * half) < n) ++half;
  const uint32_t mask = static_cast<uint32_t>((uint64_t{1} << half) - 1);
  uint64_t x = place;
  do {
    uint32_t left = static_cast<uint32_t>(x >> half), right = static_cast<uint32_t>(x) & mask;
    for (int round = 0; round < 8; ++round) {
      uint32_t f = right ^ keys[round / 4][static_cast<uint32_t>(round % 4)];
      f = (f ^ f >> 16) * 0x85ebca6bu;  // MurmurHash3's last steps
      f = (f ^ f >> 13) * 0xc2b2ae35u;
      f = (left ^ f ^ f >> 16) & mask;
      left = right;
      right = f;
    }
    x = static_cast<uint64_t>(left) << half | right;
  } while (x >= n);
  return x;
}

}  // namespace flame
