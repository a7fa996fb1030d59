// Pointwise kernels for float32 and float64, one set per instruction set, chosen when the program runs.
// AVX-512, AVX2 and a plain baseline: what lies between would cost compile time for machines that hardly exist.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/fuse/kernels_float.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include <cstring>

#include "flame/fuse/element_loop.h"
#include "flame/fuse/kernels_internal.h"
#include "flame/fuse/scalar_math.h"
#include "flame/fuse/simd_special.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {
using namespace kernels;

// One struct a row: the element expression or the vector expression.
#define FLAME_FORM_scalar(name, scalar, vector)                                                     \
  struct Row_##name {                                                                               \
    static constexpr bool is_vector = false;                                                        \
    template <class A, class T>                                                                     \
    static HWY_INLINE auto call([[maybe_unused]] A a, [[maybe_unused]] T b, [[maybe_unused]] T c) { \
      return scalar;                                                                                \
    }                                                                                               \
  };
#define FLAME_FORM_vector(name, scalar, vector)                                                                        \
  struct Row_##name {                                                                                                  \
    static constexpr bool is_vector = true;                                                                            \
    template <class D, class V>                                                                                        \
    static HWY_INLINE V call([[maybe_unused]] D d, [[maybe_unused]] V a, [[maybe_unused]] V b, [[maybe_unused]] V c) { \
      return vector;                                                                                                   \
    }                                                                                                                  \
  };
#define FLAME_POINTWISE(name, arity, in, out, lanes, scalar, vector, ...) FLAME_FORM_##lanes(name, scalar, vector)
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE

// Whole vectors, then one padded vector for the rest: an element's bits do not depend on its place.
template <class Row, int arity, class T>
void run_vector(const void* pa, const void* pb, const void* pc, void* po, int64_t count) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d), n = static_cast<size_t>(count);
  const T* a = static_cast<const T*>(pa);
  const T* b = arity > 1 ? static_cast<const T*>(pb) : a;
  const T* c = arity > 2 ? static_cast<const T*>(pc) : a;
  T* out = static_cast<T*>(po);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto va = hn::LoadU(d, a + i);
    const auto vb = arity > 1 ? hn::LoadU(d, b + i) : va;
    const auto vc = arity > 2 ? hn::LoadU(d, c + i) : va;
    hn::StoreU(Row::call(d, va, vb, vc), d, out + i);
  }
  if (i == n) return;
  const size_t rest = n - i;
  HWY_ALIGN T pad[3][hn::MaxLanes(hn::ScalableTag<T>())] = {};
  std::memcpy(pad[0], a + i, rest * sizeof(T));
  if (arity > 1) std::memcpy(pad[1], b + i, rest * sizeof(T));
  if (arity > 2) std::memcpy(pad[2], c + i, rest * sizeof(T));
  hn::Store(Row::call(d, hn::Load(d, pad[0]), hn::Load(d, pad[1]), hn::Load(d, pad[2])), d, pad[0]);
  std::memcpy(out + i, pad[0], rest * sizeof(T));
}

template <class Row, int arity, class A, class T, class Out>
void run(const void* pa, const void* pb, const void* pc, void* po, int64_t n) {
  if constexpr (Row::is_vector) run_vector<Row, arity, T>(pa, pb, pc, po, n);
  else run_scalar<Row, arity, A, T, Out>(pa, pb, pc, po, n);
}

#define FLAME_OUT_same(T) T
#define FLAME_OUT_boolean(T) uint8_t
#define FLAME_FLOAT_any(name, arity, out, T) &run<Row_##name, arity, T, T, FLAME_OUT_##out(T)>
#define FLAME_FLOAT_number FLAME_FLOAT_any
#define FLAME_FLOAT_floating FLAME_FLOAT_any
#define FLAME_FLOAT_integral(name, arity, out, T) nullptr
#define FLAME_FLOAT_select(name, arity, out, T) &run<Row_##name, arity, uint8_t, T, T>
#define FLAME_POINTWISE(name, arity, in, out, ...) \
  {FLAME_FLOAT_##in(name, arity, out, float), FLAME_FLOAT_##in(name, arity, out, double)},
constexpr BlockFn table[][2] = {
#include "flame/fuse/pointwise.def"
};
#undef FLAME_POINTWISE

BlockFn float_kernel(Code code, DType compute) { return table[static_cast<int>(code)][compute == DType::f64]; }

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame::kernels {
HWY_EXPORT(float_kernel);
BlockFn float_kernel(Code code, DType compute) { return HWY_DYNAMIC_DISPATCH(float_kernel)(code, compute); }
}  // namespace flame::kernels
#endif
