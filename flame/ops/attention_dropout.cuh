// The CPU's numbers of dropout as the lanes of a tensor core's tile need them: neighbours share Philox blocks of four words, so
// each lane makes one block and passes words on.
#pragma once
#include "flame/ops/attention.cuh"

namespace flame {

// One word of dropout, for lengths that blocks of four do not divide.
__noinline__ uint32_t word_of(const Problem& p, int64_t row, int64_t j) {
  const uint64_t at = static_cast<uint64_t>(row * p.keys + j);
  const PhiloxBlock w = philox(p.seed, at / 4, p.call);
  const uint32_t k = at % 4;
  return k == 0 ? w[0] : k == 1 ? w[1] : k == 2 ? w[2] : w[3];
}
inline void to_factors(const Problem& p, const uint32_t (&w)[4], float (&k)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) k[e] = w[e] < p.threshold ? static_cast<float>(p.factor) : 0.0f;
}
// Factors of dropout where rows are queries: of `row` and 8 further (among all [B, H, L]), keys j and j + 1. Two lanes share
// the blocks of both rows; each makes one.
inline void factors_of_rows(const Problem& p, int64_t row, int64_t j, float (&k)[4]) {
  uint32_t w[4];
  if (p.keys % 4 == 0) {
    const bool odd = threadIdx.x % 2;
    const PhiloxBlock b = philox(p.seed, static_cast<uint64_t>((row + (odd ? 8 : 0)) * p.keys + j) / 4, p.call);
    const uint32_t x = __shfl_xor_sync(~0u, odd ? b[0] : b[2], 1), y = __shfl_xor_sync(~0u, odd ? b[1] : b[3], 1);
    w[0] = odd ? x : b[0];
    w[1] = odd ? y : b[1];
    w[2] = odd ? b[2] : x;
    w[3] = odd ? b[3] : y;
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) w[e] = word_of(p, row + e / 2 * 8, j + e % 2);
  }
  to_factors(p, w, k);
}
// The same where rows are keys: of queries `row` and the next, keys j and j + 8. Four lanes share four blocks, each makes one,
// and the words are transposed among them.
inline void factors_of_columns(const Problem& p, int64_t row, int64_t j, float (&k)[4]) {
  uint32_t w[4];
  if (p.keys % 4 == 0) {
    const int place = threadIdx.x / 4 % 4;
    const int64_t at = (row + place % 2) * p.keys + j + place / 2 * 8;
    const PhiloxBlock b = philox(p.seed, static_cast<uint64_t>(at) / 4, p.call);
    const bool odd = place % 2, high = place / 2;
    const uint32_t x = __shfl_xor_sync(~0u, odd ? b[0] : b[1], 4), y = __shfl_xor_sync(~0u, odd ? b[2] : b[3], 4);
    const uint32_t c[4] = {odd ? x : b[0], odd ? b[1] : x, odd ? y : b[2], odd ? b[3] : y};
    const uint32_t u = __shfl_xor_sync(~0u, high ? c[0] : c[2], 8), v = __shfl_xor_sync(~0u, high ? c[1] : c[3], 8);
    w[0] = high ? u : c[0];
    w[1] = high ? v : c[1];
    w[2] = high ? c[2] : u;
    w[3] = high ? c[3] : v;
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) w[e] = word_of(p, row + e % 2, j + e / 2 * 8);
  }
  to_factors(p, w, k);
}

}  // namespace flame
