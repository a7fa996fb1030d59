// CUDA's names as far as the project's device texts use them, for a C++ compiler: one thread of the host runs the threads
// of a block by turns (threads.h). Included before a translated text; needs no other header.
#pragma once
#include "module.h"

using size_t = decltype(sizeof 0);

extern "C" {
void* memcpy(void*, const void*, size_t) noexcept;
void* memset(void*, int, size_t) noexcept;
#define FLAME_LIBM1(name)       \
  double name(double) noexcept; \
  float name##f(float) noexcept;
FLAME_LIBM1(fabs)
FLAME_LIBM1(floor)
FLAME_LIBM1(ceil)
FLAME_LIBM1(trunc)
FLAME_LIBM1(nearbyint)
FLAME_LIBM1(rint)
FLAME_LIBM1(sqrt)
FLAME_LIBM1(cbrt)
FLAME_LIBM1(exp)
FLAME_LIBM1(exp2)
FLAME_LIBM1(expm1)
FLAME_LIBM1(log)
FLAME_LIBM1(log2)
FLAME_LIBM1(log10)
FLAME_LIBM1(log1p)
FLAME_LIBM1(sin)
FLAME_LIBM1(cos)
FLAME_LIBM1(tan)
FLAME_LIBM1(asin)
FLAME_LIBM1(acos)
FLAME_LIBM1(atan)
FLAME_LIBM1(sinh)
FLAME_LIBM1(cosh)
FLAME_LIBM1(tanh)
FLAME_LIBM1(asinh)
FLAME_LIBM1(acosh)
FLAME_LIBM1(atanh)
FLAME_LIBM1(erf)
FLAME_LIBM1(erfc)
FLAME_LIBM1(tgamma)
FLAME_LIBM1(lgamma)
#define FLAME_LIBM2(name)               \
  double name(double, double) noexcept; \
  float name##f(float, float) noexcept;
FLAME_LIBM2(atan2)
FLAME_LIBM2(hypot)
FLAME_LIBM2(pow)
FLAME_LIBM2(fmod)
FLAME_LIBM2(fmin)
FLAME_LIBM2(fmax)
FLAME_LIBM2(copysign)
double fma(double, double, double) noexcept;
float fmaf(float, float, float) noexcept;
double ldexp(double, int) noexcept;
float ldexpf(float, int) noexcept;
}
#undef FLAME_LIBM1
#undef FLAME_LIBM2
inline double sinpi(double x) {
  const double r = x - 2 * nearbyint(x / 2);  // exact
  return sin(3.14159265358979323846 * (r > 0.5 ? 1 - r : r < -0.5 ? -1 - r : r));
}

// ---- words of the language
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __constant__ __attribute__((section(".data"), visibility("default")))
#define __noinline__ __attribute__((noinline))
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_assume(what) ((what) ? void() : __builtin_trap())

extern "C" {
// Shared memory is all that a module keeps uninitialised: the emulator finds it as the object's .bss.
alignas(1024) static unsigned char flame_dynamic_shared[flame_emulated::most_dynamic];
__attribute__((visibility("default"))) flame_emulated::Context flame_emulated_context{
    {}, {}, {}, {}, nullptr, nullptr, nullptr, nullptr, flame_dynamic_shared};
}
#define threadIdx (flame_emulated_context.thread)
#define blockIdx (flame_emulated_context.block)
#define blockDim (flame_emulated_context.block_size)
#define gridDim (flame_emulated_context.grid)
constexpr int warpSize = 32;

#define FLAME_VECTORS(type, name)                                                             \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                    \
  struct name##3 { type x, y, z; };                                                           \
  struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; }; \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                            \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
FLAME_VECTORS(unsigned char, uchar)
FLAME_VECTORS(unsigned short, ushort)
FLAME_VECTORS(int, int)
FLAME_VECTORS(unsigned, uint)
FLAME_VECTORS(float, float)
FLAME_VECTORS(double, double)
FLAME_VECTORS(long long, longlong)
FLAME_VECTORS(unsigned long long, ulonglong)
#undef FLAME_VECTORS

// ---- bits and arithmetic
template <class To, class From>
To flame_bits(From x) {
  return __builtin_bit_cast(To, x);
}
inline int __float_as_int(float x) { return flame_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return flame_bits<unsigned>(x); }
inline float __int_as_float(int x) { return flame_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return flame_bits<float>(x); }
inline long long __double_as_longlong(double x) { return flame_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return flame_bits<double>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which) {
  const unsigned long long all = static_cast<unsigned long long>(b) << 32 | a;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) out |= static_cast<unsigned>(all >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
  return out;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
template <class T>
  requires(T(3) / 2 == 1)
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
  requires(T(3) / 2 == 1)
T max(T a, T b) {
  return a < b ? b : a;
}

// ---- memory
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T v) {
  *p = v;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline bool flame_is_shared(const void* p) {
  return p >= flame_emulated_context.shared && p < flame_emulated_context.shared_end;
}
inline bool __isGlobal(const void* p) { return !flame_is_shared(p); }
// A text keeps the low 32 bits.
inline size_t __cvta_generic_to_shared(const void* p) { return reinterpret_cast<size_t>(p); }
inline unsigned char* flame_shared_at(unsigned low) {
  unsigned char* const base = flame_emulated_context.shared;
  return base + static_cast<int>(low - static_cast<unsigned>(reinterpret_cast<size_t>(base)));
}
template <class T, class F>
T flame_atomic(T* p, F fn) {
  const T before = *p;
  *p = fn(before);
  return before;
}
template <class T>
struct flame_same {
  using type = T;
};
#define FLAME_ATOMIC(name, result)                              \
  template <class T>                                            \
  T name(T* p, typename flame_same<T>::type v) {                \
    return flame_atomic(p, [v](T was) -> T { return result; }); \
  }
FLAME_ATOMIC(atomicAdd, was + v)
FLAME_ATOMIC(atomicSub, was - v)
FLAME_ATOMIC(atomicExch, (static_cast<void>(was), v))
FLAME_ATOMIC(atomicMax, was < v ? v : was)
FLAME_ATOMIC(atomicMin, v < was ? v : was)
FLAME_ATOMIC(atomicAnd, was& v)
FLAME_ATOMIC(atomicOr, was | v)
FLAME_ATOMIC(atomicXor, was ^ v)
#undef FLAME_ATOMIC
template <class T>
T atomicCAS(T* p, typename flame_same<T>::type expected, typename flame_same<T>::type v) {
  return flame_atomic(p, [=](T was) { return was == expected ? v : was; });
}

#include "meetings.h"
#include "ptx.h"

namespace flame_emulated {

template <auto kernel>
struct Call;
template <class... P, void (*kernel)(P...)>
struct Call<kernel> {
  static constexpr size_t places(size_t (&at)[sizeof...(P) + 1]) {
    size_t end = 0;
    int i = 0;
    ((end = (end + alignof(P) - 1) / alignof(P) * alignof(P), at[i++] = end, end += sizeof(P)), ...);
    return end;
  }
  template <class T>
  static T load(const unsigned char* p) {
    alignas(T) unsigned char bytes[sizeof(T)];
    memcpy(bytes, p, sizeof(T));
    return *reinterpret_cast<const T*>(bytes);
  }
  static void call(const unsigned char* arguments) {
    size_t at[sizeof...(P) + 1]{};
    places(at);
    call_at(arguments, at, Numbers<sizeof...(P)>::all());
  }
  template <size_t... i>
  struct List {};
  template <size_t n, size_t... i>
  struct Numbers {
    static auto all() { return Numbers<n - 1, n - 1, i...>::all(); }
  };
  template <size_t... i>
  struct Numbers<0, i...> {
    static auto all() { return List<i...>(); }
  };
  template <size_t... i>
  static void call_at(const unsigned char* a, const size_t* at, List<i...>) {
    kernel(load<P>(a + at[i])...);
  }
  static constexpr size_t bytes() {
    size_t at[sizeof...(P) + 1]{};
    return places(at);
  }
};

}  // namespace flame_emulated

// After the text: a kernel for the emulator, and what __launch_bounds__ says of it.
#define FLAME_ENTRY(kernel, bounds)                                                                   \
  extern "C" __attribute__((visibility("default"))) const flame_emulated::Entry flame_entry_##kernel; \
  const flame_emulated::Entry flame_entry_##kernel{                                                   \
      flame_emulated::Call<&kernel>::call, flame_emulated::Call<&kernel>::bytes(), static_cast<unsigned>(bounds)};
