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

// out[i] = Row::call(a[i], b[i], c[i]). `out` may be an input, which ivdep's promise allows.
template <class Row, int arity, class A, class T, class Out>
void run_scalar(const void* pa, const void* pb, const void* pc, void* po, int64_t n) {
  const A* a = static_cast<const A*>(pa);
  const T* b = static_cast<const T*>(pb);
  const T* c = static_cast<const T*>(pc);
  Out* out = static_cast<Out*>(po);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (arity == 1) out[i] = static_cast<Out>(Row::call(a[i], T{}, T{}));
    else if constexpr (arity == 2) out[i] = static_cast<Out>(Row::call(a[i], b[i], T{}));
    else out[i] = static_cast<Out>(Row::call(a[i], b[i], c[i]));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();
#endif
