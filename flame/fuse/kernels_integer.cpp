// Pointwise kernels for bool and the integers, for the baseline instruction set alone: they are seldom a bottleneck.
#include "flame/fuse/element_loop.h"
#include "flame/fuse/kernels_internal.h"
#include "flame/fuse/scalar_math.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {
namespace {
using namespace kernels;

#define FLAME_ROW_any(name, scalar)                                                             \
  struct Row_##name {                                                                           \
    template <class A, class T>                                                                 \
    static inline auto call([[maybe_unused]] A a, [[maybe_unused]] T b, [[maybe_unused]] T c) { \
      return scalar;                                                                            \
    }                                                                                           \
  };
#define FLAME_ROW_number FLAME_ROW_any
#define FLAME_ROW_integral FLAME_ROW_any
#define FLAME_ROW_select FLAME_ROW_any
#define FLAME_ROW_floating(name, scalar)
#define FLAME_POINTWISE(name, arity, in, out, lanes, scalar, ...) FLAME_ROW_##in(name, scalar)
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE

#define FLAME_OUT_same(T) T
#define FLAME_OUT_boolean(T) uint8_t
#define FLAME_KERNEL_any(name, arity, out, T) &run_scalar<Row_##name, arity, T, T, FLAME_OUT_##out(T)>
#define FLAME_KERNEL_integral FLAME_KERNEL_any
#define FLAME_KERNEL_select(name, arity, out, T) &run_scalar<Row_##name, arity, bool, T, T>
#define FLAME_KERNEL_floating(name, arity, out, T) nullptr
#define FLAME_KERNEL_number(name, arity, out, T) number_kernel<Row_##name, arity, T, FLAME_OUT_##out(T)>()
template <class Row, int arity, class T, class Out>
constexpr BlockFn number_kernel() {
  if constexpr (std::is_same_v<T, bool>) return nullptr;
  else return &run_scalar<Row, arity, T, T, Out>;
}

template <class T>
BlockFn kernel_of(Code code) {
  static constexpr BlockFn table[] = {
#define FLAME_POINTWISE(name, arity, in, out, ...) FLAME_KERNEL_##in(name, arity, out, T),
#include "flame/fuse/pointwise.def"
#undef FLAME_POINTWISE
  };
  return table[static_cast<int>(code)];
}

}  // namespace
}  // namespace HWY_NAMESPACE

BlockFn kernels::integer_kernel(Code code, DType compute) {
  return visit_dtype(compute, [&](auto t) -> BlockFn {
    if constexpr (std::is_integral_v<decltype(t)>) return HWY_NAMESPACE::kernel_of<decltype(t)>(code);
    else return nullptr;
  });
}

}  // namespace flame
HWY_AFTER_NAMESPACE();
