// One tile of attention scores on vectors: queries lie across the lanes, so that no sum or maximum crosses lanes.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/ops/attention_simd.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include <algorithm>
#include <limits>

#include "flame/fuse/simd_math.h"
#include "flame/ops/attention_internal.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int vectors = 2;  // as the tiles of device/cpu/gemm_kernel.cpp

// Scaled, masked scores of key j: vector v of its row.
template <class T>
struct Scores {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<hn::ScalableTag<T>>;
  static constexpr int64_t lanes = static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<T>()));
  static constexpr int64_t columns = vectors * lanes;
  const ScoreTile& t;
  const T* bias;
  const V scale, none;
  V lane[vectors];
  explicit Scores(const ScoreTile& tile)
      : t(tile),
        bias(static_cast<const T*>(tile.bias)),
        scale(hn::Set(d, static_cast<T>(tile.scale))),
        none(hn::Set(d, -std::numeric_limits<T>::infinity())) {
    for (int v = 0; v < vectors; ++v) lane[v] = hn::Iota(d, static_cast<T>(v * lanes));
  }
  HWY_INLINE V at(const T* s, int64_t j, int v) const {
    const int64_t i = j * columns + v * lanes;
    V x = hn::LoadU(d, s + i);
    const V b = bias ? hn::LoadU(d, bias + i) : hn::Zero(d);
    x = bias && !t.select ? hn::MulAdd(x, scale, b) : hn::Mul(x, scale);
    if (t.select) x = hn::IfThenElse(hn::Eq(b, none), none, x);
    if (t.causal) x = hn::IfThenElse(hn::Ge(lane[v], hn::Set(d, static_cast<T>(j - t.diagonal))), x, none);
    return x;
  }
};

template <class T>
void score_softmax(const ScoreTile& t, void* pmax, void* psum, void* pfactor) {
  const Scores<T> scores(t);
  const auto d = scores.d;
  using S = Scores<T>;
  T* s = static_cast<T*>(t.s);
  const T* keep = static_cast<const T*>(t.keep);
  typename S::V old[vectors], top[vectors], sum[vectors];
  for (int v = 0; v < vectors; ++v) top[v] = old[v] = hn::LoadU(d, static_cast<T*>(pmax) + v * S::lanes);
  for (int64_t j = 0; j < t.keys; ++j)
    for (int v = 0; v < vectors; ++v) {
      const auto x = scores.at(s, j, v);
      hn::StoreU(x, d, s + j * S::columns + v * S::lanes);
      top[v] = hn::Max(top[v], x);
    }
  for (int v = 0; v < vectors; ++v) {
    hn::StoreU(top[v], d, static_cast<T*>(pmax) + v * S::lanes);
    top[v] = hn::IfThenZeroElse(hn::Eq(top[v], scores.none), top[v]);  // no key yet: e^-Inf below
    const auto factor = Exp(d, hn::Sub(old[v], top[v]));
    hn::StoreU(factor, d, static_cast<T*>(pfactor) + v * S::lanes);
    sum[v] = hn::Mul(factor, hn::LoadU(d, static_cast<T*>(psum) + v * S::lanes));
  }
  constexpr int64_t run = 16;  // rows summed among themselves first, which keeps more digits
  for (int64_t j0 = 0; j0 < t.keys; j0 += run)
    for (int v = 0; v < vectors; ++v) {
      auto part = hn::Zero(d);
      for (int64_t j = j0; j < std::min(t.keys, j0 + run); ++j) {
        const int64_t i = j * S::columns + v * S::lanes;
        auto p = Exp(d, hn::Sub(hn::LoadU(d, s + i), top[v]));
        part = hn::Add(part, p);
        if (keep) p = hn::Mul(p, hn::LoadU(d, keep + i));
        hn::StoreU(p, d, s + i);
      }
      sum[v] = hn::Add(sum[v], part);
    }
  for (int v = 0; v < vectors; ++v) hn::StoreU(sum[v], d, static_cast<T*>(psum) + v * S::lanes);
}

template <class T>
void score_gradient(const ScoreTile& t, const void* plse, const void* pdelta, int64_t rows, void* pdp) {
  const Scores<T> scores(t);
  const auto d = scores.d;
  using S = Scores<T>;
  T* s = static_cast<T*>(t.s);
  T* dp = static_cast<T*>(pdp);
  const T* keep = static_cast<const T*>(t.keep);
  typename S::V lse[vectors], delta[vectors];
  for (int v = 0; v < vectors; ++v) {
    lse[v] = hn::LoadU(d, static_cast<const T*>(plse) + v * S::lanes);
    delta[v] = hn::LoadU(d, static_cast<const T*>(pdelta) + v * S::lanes);
  }
  for (int64_t j = 0; j < t.keys; ++j)
    for (int v = 0; v < vectors; ++v) {
      const int64_t i = j * S::columns + v * S::lanes;
      const auto p = Exp(d, hn::Sub(scores.at(s, j, v), lse[v]));
      auto g = hn::LoadU(d, dp + i), kept = p;
      if (keep) {
        const auto k = hn::LoadU(d, keep + i);
        g = hn::Mul(g, k);
        kept = hn::Mul(p, k);
      }
      hn::StoreU(kept, d, s + i);
      hn::StoreU(hn::Mul(hn::Mul(p, hn::Sub(g, delta[v])), scores.scale), d, dp + i);
    }
  for (int64_t i = t.keys * S::columns; i < rows * S::columns; ++i) s[i] = dp[i] = 0;
}

template <class T>
void rescale_columns(void* px, int64_t rows, const void* pfactor) {
  const hn::ScalableTag<T> d;
  constexpr int64_t lanes = static_cast<int64_t>(hn::MaxLanes(d));
  T* x = static_cast<T*>(px);
  const T* factor = static_cast<const T*>(pfactor);
  for (int v = 0; v < vectors; ++v) {
    const auto f = hn::LoadU(d, factor + v * lanes);
    for (int64_t r = 0; r < rows; ++r) {
      T* at = x + (r * vectors + v) * lanes;
      hn::StoreU(hn::Mul(hn::LoadU(d, at), f), d, at);
    }
  }
}

template <class T>
AttentionKernel attention_kernel_for() {
  return {static_cast<int>(Scores<T>::columns), score_softmax<T>, score_gradient<T>, rescale_columns<T>};
}
AttentionKernel attention_kernel_of(DType t) {
  return t == DType::f64 ? attention_kernel_for<double>() : attention_kernel_for<float>();
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame {

HWY_EXPORT(attention_kernel_of);
AttentionKernel attention_kernel(DType accumulator) { return HWY_DYNAMIC_DISPATCH(attention_kernel_of)(accumulator); }

}  // namespace flame
#endif
