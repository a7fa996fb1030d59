// Internal: the loop of `scalar` rows, compiled once per instruction set so that the compiler vectorises it for each.
#if defined(FLAME_FUSE_ELEMENT_LOOP_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLAME_FUSE_ELEMENT_LOOP_H_
#undef FLAME_FUSE_ELEMENT_LOOP_H_
#else
#define FLAME_FUSE_ELEMENT_LOOP_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {

// out[i] = Row::call(a[i], b[i], c[i]). `out` may be an input, which ivdep's promise allows. Bit k of `same` says that
// input k is one number throughout: its first element is read once.
template <class Row, int arity, class A, class T, class Out, unsigned same = 0>
void run_scalar(const void* pa, const void* pb, const void* pc, void* po, int64_t n) {
  if (n <= 0) return;
  const A* a = static_cast<const A*>(pa);
  const T* b = static_cast<const T*>(pb);
  const T* c = static_cast<const T*>(pc);
  Out* out = static_cast<Out*>(po);
  const A a0 = a[0];
  const T b0 = arity > 1 ? b[0] : T{}, c0 = arity > 2 ? c[0] : T{};
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i)
    out[i] = static_cast<Out>(
        Row::call(same & 1 ? a0 : a[i], arity < 2 || same & 2 ? b0 : b[i], arity < 3 || same & 4 ? c0 : c[i]));
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();
#endif
