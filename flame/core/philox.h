// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): random bits as a pure
// function of seed and counter, so that any element can be made on any thread, device or batch layout.
#pragma once
#include <array>
#include <cstdint>

namespace flame {

using PhiloxBlock = std::array<uint32_t, 4>;  // counter in, 128 random bits out
using PhiloxKey = std::array<uint32_t, 2>;

constexpr PhiloxBlock philox4x32(PhiloxBlock c, PhiloxKey k) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xd2511f53u} * c[0], p1 = uint64_t{0xcd9e8d57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    k[0] += 0x9e3779b9u;
    k[1] += 0xbb67ae85u;
  }
  return c;
}

// The keys of all rounds.
constexpr void philox_keys(uint64_t seed, uint32_t (&keys)[20]) {
  PhiloxKey k{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    keys[2 * round] = k[0];
    keys[2 * round + 1] = k[1];
    k = {k[0] + 0x9e3779b9u, k[1] + 0xbb67ae85u};
  }
}

// The house layout: key = seed, counter = (element index, call offset), low words first.
constexpr PhiloxBlock philox(uint64_t seed, uint64_t index, uint64_t offset) {
  return philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), static_cast<uint32_t>(offset),
                     static_cast<uint32_t>(offset >> 32)},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

}  // namespace flame
