// Pointwise kernels for float32 and float64, one set per instruction set, chosen when the program runs.
// AVX-512, AVX2 and a plain baseline: what lies between would cost compile time for machines that hardly exist.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/fuse/kernels_float.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include <cstring>
#include <iterator>

#include "flame/fuse/element_loop.h"
#include "flame/fuse/kernels_internal.h"
#include "flame/fuse/scalar_special.h"
#include "flame/fuse/simd_activation.h"

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
template <class Row, int arity, class T, unsigned same>
void run_vector(const void* pa, const void* pb, const void* pc, void* po, int64_t count) {
  if (count <= 0) return;
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d), n = static_cast<size_t>(count);
  const T* a = static_cast<const T*>(pa);
  const T* b = arity > 1 ? static_cast<const T*>(pb) : a;
  const T* c = arity > 2 ? static_cast<const T*>(pc) : a;
  T* out = static_cast<T*>(po);
  const auto a0 = hn::Set(d, a[0]), b0 = hn::Set(d, b[0]), c0 = hn::Set(d, c[0]);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto va = same & 1 ? a0 : hn::LoadU(d, a + i);
    const auto vb = arity < 2 || same & 2 ? b0 : hn::LoadU(d, b + i);
    const auto vc = arity < 3 || same & 4 ? c0 : hn::LoadU(d, c + i);
    hn::StoreU(Row::call(d, va, vb, vc), d, out + i);
  }
  if (i == n) return;
  const size_t rest = n - i;
  HWY_ALIGN T pad[3][hn::MaxLanes(hn::ScalableTag<T>())] = {};
  if (!(same & 1)) std::memcpy(pad[0], a + i, rest * sizeof(T));
  if (arity > 1 && !(same & 2)) std::memcpy(pad[1], b + i, rest * sizeof(T));
  if (arity > 2 && !(same & 4)) std::memcpy(pad[2], c + i, rest * sizeof(T));
  const auto va = same & 1 ? a0 : hn::Load(d, pad[0]);
  const auto vb = same & 2 ? b0 : hn::Load(d, pad[1]);
  const auto vc = same & 4 ? c0 : hn::Load(d, pad[2]);
  hn::Store(Row::call(d, va, vb, vc), d, pad[0]);
  std::memcpy(out + i, pad[0], rest * sizeof(T));
}

template <class Row, int arity, class A, class T, class Out, unsigned same>
void run(const void* pa, const void* pb, const void* pc, void* po, int64_t n) {
  if constexpr (Row::is_vector) run_vector<Row, arity, T, same>(pa, pb, pc, po, n);
  else run_scalar<Row, arity, A, T, Out, same>(pa, pb, pc, po, n);
}

// The kernels of a row for each choice of inputs that are one number throughout: none, a, b, c, b and c.
constexpr unsigned choices[] = {0, 1, 2, 4, 6};
struct Variants {
  BlockFn of[std::size(choices)] = {};
};
template <class Row, int arity, class A, class T, class Out>
constexpr Variants variants() {
  if constexpr (arity == 1) return {{&run<Row, 1, A, T, Out, 0>}};
  else if constexpr (arity == 2)
    return {{&run<Row, 2, A, T, Out, 0>, &run<Row, 2, A, T, Out, 1>, &run<Row, 2, A, T, Out, 2>}};
  else
    return {{&run<Row, 3, A, T, Out, 0>, nullptr, &run<Row, 3, A, T, Out, 2>, &run<Row, 3, A, T, Out, 4>,
             &run<Row, 3, A, T, Out, 6>}};
}

#define FLAME_OUT_same(T) T
#define FLAME_OUT_boolean(T) uint8_t
#define FLAME_FLOAT_any(name, arity, out, T) variants<Row_##name, arity, T, T, FLAME_OUT_##out(T)>()
#define FLAME_FLOAT_number FLAME_FLOAT_any
#define FLAME_FLOAT_floating FLAME_FLOAT_any
#define FLAME_FLOAT_integral(name, arity, out, T) \
  Variants {}
#define FLAME_FLOAT_select(name, arity, out, T) variants<Row_##name, arity, uint8_t, T, T>()
#define FLAME_POINTWISE(name, arity, in, out, ...) \
  {FLAME_FLOAT_##in(name, arity, out, float), FLAME_FLOAT_##in(name, arity, out, double)},
constexpr Variants table[][2] = {
#include "flame/fuse/pointwise.def"
};
#undef FLAME_POINTWISE

BlockFn float_kernel(Code code, DType compute, unsigned same) {
  const Variants& v = table[static_cast<int>(code)][compute == DType::f64];
  for (size_t i = 0; i < std::size(choices); ++i)
    if (choices[i] == same && v.of[i]) return v.of[i];
  return v.of[0];
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame::kernels {
HWY_EXPORT(float_kernel);
BlockFn float_kernel(Code code, DType compute, unsigned same) {
  return HWY_DYNAMIC_DISPATCH(float_kernel)(code, compute, same);
}
}  // namespace flame::kernels
#endif
