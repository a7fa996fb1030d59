// Philox on the device: blocks as core/philox.h makes them, from the keys of all rounds, which the host works out; and what
// dropout in islands asks of them.
#pragma once
#include "flame/core/philox.h"
#include "flame/fuse/device.cuh"

namespace flame {

// What Philox's first two rounds come to for all blocks whose counters share the high word.
struct Start {
  uint32_t a, b, c, d;
};
template <class D>
Start start_of(const D& d, uint32_t high) {
  const uint64_t p = uint64_t{0xcd9e8d57u} * static_cast<uint32_t>(d.call);
  const uint64_t q = uint64_t{0xd2511f53u} * (static_cast<uint32_t>(p >> 32) ^ high ^ d.key[0]);
  return {static_cast<uint32_t>(d.call >> 32) ^ d.key[1], static_cast<uint32_t>(p) ^ d.key[2],
          static_cast<uint32_t>(q >> 32) ^ d.key[3], static_cast<uint32_t>(q)};
}
// Block `low` of them, of the draw d, which has a call's number and the keys of all rounds.
template <class D>
PhiloxBlock block_of(const D& d, const Start& s, uint32_t low) {
  const uint64_t p = uint64_t{0xd2511f53u} * low;
  const uint64_t q = uint64_t{0xcd9e8d57u} * (static_cast<uint32_t>(p >> 32) ^ s.a);
  PhiloxBlock c{static_cast<uint32_t>(q >> 32) ^ s.b, static_cast<uint32_t>(q), static_cast<uint32_t>(p) ^ s.c, s.d};
#pragma unroll
  for (int round = 2; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xd2511f53u} * c[0], p1 = uint64_t{0xcd9e8d57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ d.key[2 * round], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ d.key[2 * round + 1], static_cast<uint32_t>(p0)};
  }
  return c;
}

// A dropout: an element is kept whose word is `last` or less. Made by the host (fuse/cuda_program.cpp).
struct Dropped {
  uint64_t call, last;
  uint32_t key[20];
};
// The block that element `index` and its neighbours share.
template <class I>
PhiloxBlock block_at(const Dropped& d, I index) {
  const auto n = static_cast<uint64_t>(static_cast<std::make_unsigned_t<I>>(index)) / 4;
  return block_of(d, start_of(d, static_cast<uint32_t>(n >> 32)), static_cast<uint32_t>(n));
}
inline bool keeps(const Dropped& d, uint32_t word) { return word <= static_cast<uint32_t>(d.last); }

template <class I>
bool kept(const Dropped& d, I index) {
  const PhiloxBlock b = block_at(d, index);
  const int k = static_cast<int>(index & 3);
  return keeps(d, k == 0 ? b[0] : k == 1 ? b[1] : k == 2 ? b[2] : b[3]);
}

// The words of elements index .. index + n - 1, where index is a multiple of n.
template <int n>
struct Words {
  uint32_t v[n];
};
template <int n>
Words<n> words_of(const Dropped& d, int64_t index) {
  Words<n> w;
  if constexpr (n == 2) {
    const PhiloxBlock b = block_at(d, index);
    const bool second = (index & 2) != 0;
    w.v[0] = second ? b[2] : b[0];
    w.v[1] = second ? b[3] : b[1];
  } else {
#pragma unroll
    for (int i = 0; i < n; i += 4) {
      const PhiloxBlock b = block_at(d, index + i);
#pragma unroll
      for (int k = 0; k < 4; ++k) w.v[i + k] = b[k];
    }
  }
  return w;
}

// Bit j: whether element first + j * step is kept, j < steps. For whole warps whose lanes' `first` follow each other from a
// multiple of 4; `step` is one too. Four lanes share a block: each makes that of one of four steps.
template <int steps, class I>
uint32_t kept_by_warp(const Dropped& d, I first, I step) {
  static_assert(steps <= 32, "a bit a step");
  const int lane = threadIdx.x % 32, place = lane % 4;
  uint32_t bits = 0;
#pragma unroll
  for (int j = 0; j < steps; j += 4) {
    const PhiloxBlock b = block_at(d, first + (j + place) * step);
    const uint32_t w0 = __ballot_sync(~0u, keeps(d, b[0])), w1 = __ballot_sync(~0u, keeps(d, b[1])),
                   w2 = __ballot_sync(~0u, keeps(d, b[2])), w3 = __ballot_sync(~0u, keeps(d, b[3]));
    const uint32_t own = place == 0   ? w0
                         : place == 1 ? w1
                         : place == 2 ? w2
                                      : w3;  // of this lane in all steps of all fours
    bits |= (own >> (lane & 28) & 15u) << j;
  }
  return bits;
}

}  // namespace flame
