// What becomes of a number where entries of an index meet: FLAME_COMBINE names it, FLAME_T is the dtype in memory. 16-bit numbers are
// combined in float32.
#pragma once
#include "flame/fuse/device.cuh"
#include "flame/fuse/scalar_math.h"

namespace flame {
using namespace kernels;
using T = FLAME_T;
using C = computed<T>;
struct assign {
  static C of(C, C s) { return s; }
};
struct add {
  static C of(C e, C s) { return plus(e, s); }
};
struct prod {
  static C of(C e, C s) { return times(e, s); }
};
struct amax {
  static C of(C e, C s) { return s > e || s != s ? s : e; }
};
struct amin {
  static C of(C e, C s) { return s < e || s != s ? s : e; }
};
C combine(C e, const T& s) { return FLAME_COMBINE::of(e, widen(s)); }

}  // namespace flame
