// One row of a normalisation on vectors: sums in four accumulators, the row read from the cache again.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/ops/row_norm_simd.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include <algorithm>
#include <cmath>
#include <cstring>

#include "flame/ops/row_norm_internal.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A block of elements: a whole vector, or the first `count` lanes of one, the others 0.
template <class D>
struct Lanes {
  using T = hn::TFromD<D>;
  D d;
  size_t count;
  bool whole() const { return count == hn::Lanes(d); }
  HWY_INLINE hn::Vec<D> load(const T* p) const {
    if (whole()) return hn::LoadU(d, p);
    HWY_ALIGN T part[hn::MaxLanes(D())] = {};
    std::memcpy(part, p, count * sizeof(T));
    return hn::Load(d, part);
  }
  HWY_INLINE void store(hn::Vec<D> v, T* p) const {
    if (whole()) return hn::StoreU(v, d, p);
    HWY_ALIGN T part[hn::MaxLanes(D())];
    hn::Store(v, d, part);
    std::memcpy(p, part, count * sizeof(T));
  }
};
// fn(block, first element, accumulator to use) over [begin, end).
template <class T, class F>
HWY_INLINE void row_blocks(int64_t begin, int64_t end, F&& fn) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t j = begin;
  for (; j + 4 * lanes <= end; j += 4 * lanes)
    for (int k = 0; k < 4; ++k) fn(Lanes<decltype(d)>{d, static_cast<size_t>(lanes)}, j + k * lanes, k);
  for (; j < end; j += lanes) fn(Lanes<decltype(d)>{d, static_cast<size_t>(std::min(lanes, end - j))}, j, 0);
}
template <class D, class V>
HWY_INLINE hn::TFromD<D> row_total(D d, const V* acc) {
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(acc[0], acc[1]), hn::Add(acc[2], acc[3]))));
}

template <class T>
void row_forward(const RowNorm& n, const void* px, const void* pw, const void* pb, double eps, void* py, void* pmean,
                 void* pvar) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const T* x = static_cast<const T*>(px);
  const T* w = static_cast<const T*>(pw);
  const T* b = static_cast<const T*>(pb);
  T* y = static_cast<T*>(py);
  const T count = static_cast<T>(n.length);
  V sum[4], squares[4];
  for (int k = 0; k < 4; ++k) sum[k] = squares[k] = hn::Zero(d);
  row_blocks<T>(0, n.length, [&](auto at, int64_t j, int k) HWY_ATTR { sum[k] = hn::Add(sum[k], at.load(x + j)); });
  const T mean = row_total(d, sum) / count;
  const V m = hn::Set(d, mean);
  row_blocks<T>(0, n.length, [&](auto at, int64_t j, int k) HWY_ATTR {
    V c = hn::Sub(at.load(x + j), m);
    if (!at.whole()) c = hn::IfThenElseZero(hn::FirstN(d, at.count), c);
    squares[k] = hn::MulAdd(c, c, squares[k]);
  });
  const T var = row_total(d, squares) / count;
  const T scale = 1 / std::sqrt(var + static_cast<T>(eps));
  *static_cast<T*>(pmean) = mean;
  *static_cast<T*>(pvar) = var;
  for (int64_t s = 0; s < n.length; s += n.segment == 1 ? n.length : n.segment) {
    const bool each = n.segment == 1;  // a weight an element
    const V own = hn::Set(d, w && !each ? w[s / n.segment] : T{1}),
            shift = hn::Set(d, b && !each ? b[s / n.segment] : T{});
    const V by = hn::Set(d, scale);
    row_blocks<T>(s, each ? n.length : s + n.segment, [&](auto at, int64_t j, int) HWY_ATTR {
      V v = hn::Mul(hn::Sub(at.load(x + j), m), by);
      if (w) v = hn::Mul(v, each ? at.load(w + j) : own);
      if (b) v = hn::Add(v, each ? at.load(b + j) : shift);
      at.store(v, y + j);
    });
  }
}

template <class T>
void row_backward(const RowNorm& n, const void* px, const void* pg, const void* pw, const void* pmean, const void* pvar,
                  const void* parrived, double eps, void* pdx, void* pdw, void* pdb) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const T* x = static_cast<const T*>(px);
  const T* g = static_cast<const T*>(pg);
  const T* w = static_cast<const T*>(pw);
  const T* arrived = static_cast<const T*>(parrived);
  T* dx = static_cast<T*>(pdx);
  T* dw = static_cast<T*>(pdw);
  T* db = static_cast<T*>(pdb);
  const T scale = 1 / std::sqrt(*static_cast<const T*>(pvar) + static_cast<T>(eps));
  const V m = hn::Set(d, *static_cast<const T*>(pmean)), by = hn::Set(d, scale);
  const bool each = n.segment == 1;
  const int64_t step = each ? n.length : n.segment;
  T total = 0, along = 0;  // of w g, and of w g times the normalised x
  for (int64_t s = 0; s < n.length; s += step) {
    V sum[4], dot[4];
    for (int k = 0; k < 4; ++k) sum[k] = dot[k] = hn::Zero(d);
    row_blocks<T>(s, s + step, [&](auto at, int64_t j, int k) HWY_ATTR {
      V v = at.load(g + j);
      const V unit = hn::Mul(hn::Sub(at.load(x + j), m), by);
      if (each && dw) at.store(hn::MulAdd(v, unit, at.load(dw + j)), dw + j);
      if (each && db) at.store(hn::Add(v, at.load(db + j)), db + j);
      if (each && w) v = hn::Mul(v, at.load(w + j));
      sum[k] = hn::Add(sum[k], v);
      dot[k] = hn::MulAdd(v, unit, dot[k]);
    });
    const T a = row_total(d, sum), b = row_total(d, dot), own = w && !each ? w[s / n.segment] : T{1};
    total += own * a;
    along += own * b;
    if (!each && dw) dw[s / n.segment] += b;
    if (!each && db) db[s / n.segment] += a;
  }
  const V middle = hn::Set(d, total / static_cast<T>(n.length)), slope = hn::Set(d, along / static_cast<T>(n.length));
  for (int64_t s = 0; s < n.length; s += step) {
    const V own = hn::Set(d, w && !each ? w[s / n.segment] : T{1});
    row_blocks<T>(s, s + step, [&](auto at, int64_t j, int) HWY_ATTR {
      V v = at.load(g + j);
      if (w) v = hn::Mul(v, each ? at.load(w + j) : own);
      const V unit = hn::Mul(hn::Sub(at.load(x + j), m), by);
      v = hn::Mul(hn::NegMulAdd(unit, slope, hn::Sub(v, middle)), by);
      at.store(arrived ? hn::Add(at.load(arrived + j), v) : v, dx + j);
    });
  }
}

RowNormKernel row_norm_kernel_of(DType t) {
  if (t == DType::f64) return {row_forward<double>, row_backward<double>};
  return {row_forward<float>, row_backward<float>};
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame {

HWY_EXPORT(row_norm_kernel_of);
RowNormKernel row_norm_kernel(DType t) { return HWY_DYNAMIC_DISPATCH(row_norm_kernel_of)(t); }

}  // namespace flame
#endif
