// The kernels' front: finds the right table, and holds what needs no instruction set of its own: plain casts,
// reductions of integers, identities.
#include "flame/fuse/kernels.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "flame/fuse/kernels_internal.h"
#include "flame/fuse/scalar_math.h"

namespace flame {
namespace {
using namespace kernels;

constexpr bool is_sixteen_bit(DType t) { return t == DType::f16 || t == DType::bf16; }
template <class T>
constexpr bool is_half = std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>;

template <class To, class From>
To convert(From x) {
  if constexpr (is_half<From>) return convert<To>(static_cast<float>(x));
  else if constexpr (std::is_same_v<To, bool>) return x != From(0);
  else if constexpr (is_half<To>) return To(static_cast<float>(x));
  // What does not fit a byte wraps, as in PyTorch; straight from a float that would be undefined.
  else if constexpr (std::is_integral_v<To> && sizeof(To) == 1 && std::is_floating_point_v<From>)
    return static_cast<To>(static_cast<int64_t>(x));
  else return static_cast<To>(x);
}
template <class From, class To>
void cast_block(const void* a, const void*, const void*, void* out, int64_t n) {
  const From* x = static_cast<const From*>(a);
  To* y = static_cast<To*>(out);
  if constexpr (std::is_same_v<From, To>) {
    std::memmove(y, x, static_cast<size_t>(n) * sizeof(To));
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = convert<To>(x[i]);
  }
}

// Integers are exact in any order.
template <class T, class F>
void fold(const void* in, void* out, int64_t n, T start, F join) {
  const T* x = static_cast<const T*>(in);
  for (int64_t i = 0; i < n; ++i) start = join(start, x[i]);
  *static_cast<T*>(out) = start;
}
template <class T>
T identity_of(Reduce r) {
  using Limits = std::numeric_limits<T>;
  switch (r) {
    case Reduce::sum:
    case Reduce::any: return T(0);
    case Reduce::prod:
    case Reduce::all: return T(1);
    case Reduce::max: return Limits::has_infinity ? static_cast<T>(-Limits::infinity()) : Limits::lowest();
    case Reduce::min: return Limits::has_infinity ? Limits::infinity() : Limits::max();
  }
  return T(0);
}
template <class T, Reduce r>
void fold_row(const void* x, void* out, int64_t n) {
  fold<T>(x, out, n, identity_of<T>(r), [](T a, T b) {
    switch (r) {
      case Reduce::sum: return plus(a, b);
      case Reduce::prod: return times(a, b);
      case Reduce::max: return greater(a, b);
      case Reduce::min: return lesser(a, b);
      case Reduce::any: return static_cast<T>(a | b);
      case Reduce::all: return static_cast<T>(a & b);
    }
  });
}
template <class T>
ReduceFn integer_reduce(Reduce r) {
  switch (r) {
    case Reduce::sum: return &fold_row<T, Reduce::sum>;
    case Reduce::prod: return &fold_row<T, Reduce::prod>;
    case Reduce::max: return &fold_row<T, Reduce::max>;
    case Reduce::min: return &fold_row<T, Reduce::min>;
    case Reduce::any: return std::is_same_v<T, bool> ? &fold_row<T, Reduce::any> : nullptr;
    case Reduce::all: return std::is_same_v<T, bool> ? &fold_row<T, Reduce::all> : nullptr;
  }
  return nullptr;
}

}  // namespace

BlockFn block_kernel(Code code, DType compute, unsigned same) {
  if (code >= Code::copy || is_sixteen_bit(compute)) return nullptr;
  return is_float(compute) ? float_kernel(code, compute, same) : integer_kernel(code, compute);
}

BlockFn cast_kernel(DType from, DType to) {
  if (BlockFn fast = simd_cast(from, to)) return fast;
  return visit_dtype(from, [&](auto f) {
    return visit_dtype(to, [](auto t) -> BlockFn { return &cast_block<decltype(f), decltype(t)>; });
  });
}

void round_block(DType t, float* x, int64_t n) {
  if (is_sixteen_bit(t)) simd_round(t, x, n);
}

void stream_block(const void* from, void* to, size_t bytes) { kernels::stream_block(from, to, bytes); }
void stream_fence() { kernels::stream_fence(); }

ReduceFn row_reduce_kernel(Reduce r, DType t) {
  if (is_float(t)) return is_sixteen_bit(t) ? nullptr : float_reduce(r, t);
  return visit_dtype(t, [&](auto v) -> ReduceFn {
    if constexpr (std::is_integral_v<decltype(v)>) return integer_reduce<decltype(v)>(r);
    else return nullptr;
  });
}

BlockFn combine_kernel(Reduce r, DType t) {
  switch (r) {
    case Reduce::sum: return block_kernel(Code::add, t);
    case Reduce::prod: return block_kernel(Code::mul, t);
    case Reduce::max: return block_kernel(Code::maximum, t);
    case Reduce::min: return block_kernel(Code::minimum, t);
    case Reduce::any: return t == DType::boolean ? block_kernel(Code::logical_or, t) : nullptr;
    case Reduce::all: return t == DType::boolean ? block_kernel(Code::logical_and, t) : nullptr;
  }
  return nullptr;
}

void fill_identity(Reduce r, DType t, void* out, int64_t n) {
  visit_dtype(t, [&](auto v) {
    using T = decltype(v);
    if constexpr (!is_half<T>) std::fill_n(static_cast<T*>(out), n, identity_of<T>(r));
  });
}

}  // namespace flame
