// Philox4x32-10 on vectors: one block a lane, then interleaved, since a dropout mask is little but these rounds.
#include "flame/core/philox.h"
#include "flame/fuse/philox_words.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/fuse/philox_simd.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace flame::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET != HWY_SCALAR  // which has no even and odd lanes
// The halves of the 64-bit products of all lanes with one factor.
template <class V>
struct Product {
  V low, high;
};
template <class D, class V = hn::Vec<D>>
HWY_INLINE Product<V> multiply(D d, V a, V factor) {
  const hn::Repartition<uint64_t, D> wide;
  const auto even = hn::MulEven(a, factor);
  const auto odd = hn::MulEven(hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(wide, a))), factor);
  return {hn::OddEven(hn::BitCast(d, hn::ShiftLeft<32>(odd)), hn::BitCast(d, even)),
          hn::OddEven(hn::BitCast(d, odd), hn::BitCast(d, hn::ShiftRight<32>(even)))};
}
#endif

// The ten rounds of a block a lane.
#if HWY_TARGET != HWY_SCALAR
template <class D, class V = hn::Vec<D>>
HWY_INLINE void rounds(D d, uint64_t seed, V& c0, V& c1, V& c2, V& c3) {
  auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const auto p0 = multiply(d, c0, hn::Set(d, 0xd2511f53u)), p1 = multiply(d, c2, hn::Set(d, 0xcd9e8d57u));
    c0 = hn::Xor(hn::Xor(p1.high, c1), hn::Set(d, k0));
    c1 = p1.low;
    c2 = hn::Xor(hn::Xor(p0.high, c3), hn::Set(d, k1));
    c3 = p0.low;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
}
#endif

void words(uint64_t seed, uint64_t first, uint64_t call, int64_t blocks, uint32_t* HWY_RESTRICT out) {
  int64_t b = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<uint32_t> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (; b + lanes <= blocks; b += lanes) {
    const uint64_t index = first + static_cast<uint64_t>(b);
    if (static_cast<uint32_t>(index) > UINT32_MAX - static_cast<uint32_t>(lanes)) break;  // the low word would carry
    auto c0 = hn::Iota(d, static_cast<uint32_t>(index)), c1 = hn::Set(d, static_cast<uint32_t>(index >> 32));
    auto c2 = hn::Set(d, static_cast<uint32_t>(call)), c3 = hn::Set(d, static_cast<uint32_t>(call >> 32));
    rounds(d, seed, c0, c1, c2, c3);
    hn::StoreInterleaved4(c0, c1, c2, c3, d, out + 4 * b);
  }
#endif
  for (; b < blocks; ++b) {
    const PhiloxBlock block = philox(seed, first + static_cast<uint64_t>(b), call);
    for (size_t k = 0; k < 4; ++k) out[4 * b + static_cast<int64_t>(k)] = block[k];
  }
}

void words_of(uint64_t seed, uint64_t first, uint64_t step, uint64_t call, int64_t n, uint32_t* HWY_RESTRICT out) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::ScalableTag<uint32_t> d;
  const size_t lanes = hn::Lanes(d);
  HWY_ALIGN uint32_t blocks[hn::MaxLanes(d)] = {}, made[4][hn::MaxLanes(d)];
  const bool aligned = step % 4 == 0;  // then all use the same word of their blocks
  const auto apart = hn::Mul(hn::Iota(d, 0u), hn::Set(d, static_cast<uint32_t>(step / 4)));
  for (; i + static_cast<int64_t>(lanes) <= n; i += static_cast<int64_t>(lanes)) {
    const uint64_t at = first + static_cast<uint64_t>(i) * step;
    const uint64_t high = at >> 34;
    if ((at + (lanes - 1) * step) >> 34 != high) break;
    if (!aligned)
      for (size_t l = 0; l < lanes; ++l) blocks[l] = static_cast<uint32_t>((at + l * step) / 4);
    auto c0 = aligned ? hn::Add(hn::Set(d, static_cast<uint32_t>(at / 4)), apart) : hn::Load(d, blocks);
    auto c1 = hn::Set(d, static_cast<uint32_t>(high));
    auto c2 = hn::Set(d, static_cast<uint32_t>(call)), c3 = hn::Set(d, static_cast<uint32_t>(call >> 32));
    rounds(d, seed, c0, c1, c2, c3);
    if (aligned) {
      hn::StoreU(at % 4 == 0 ? c0 : at % 4 == 1 ? c1 : at % 4 == 2 ? c2 : c3, d, out + i);
      continue;
    }
    hn::Store(c0, d, made[0]);
    hn::Store(c1, d, made[1]);
    hn::Store(c2, d, made[2]);
    hn::Store(c3, d, made[3]);
    for (size_t l = 0; l < lanes; ++l) out[i + static_cast<int64_t>(l)] = made[(at + l * step) % 4][l];
  }
#endif
  for (; i < n; ++i) {
    const uint64_t at = first + static_cast<uint64_t>(i) * step;
    out[i] = philox(seed, at / 4, call)[at % 4];
  }
}

}  // namespace flame::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame {

HWY_EXPORT(words);
void philox_words(uint64_t seed, uint64_t first, uint64_t call, int64_t blocks, uint32_t* out) {
  HWY_DYNAMIC_DISPATCH(words)(seed, first, call, blocks, out);
}
HWY_EXPORT(words_of);
void philox_words_of(uint64_t seed, uint64_t first, uint64_t step, uint64_t call, int64_t n, uint32_t* out) {
  HWY_DYNAMIC_DISPATCH(words_of)(seed, first, step, call, n, out);
}

}  // namespace flame
#endif
