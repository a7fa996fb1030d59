// Random numbers: the CPU's Philox blocks and its arithmetic, so the bits are the same. A thread makes as many blocks as fill
// 16 bytes, or four of normals. FLAME_T: the dtype of what is drawn.
#include "flame/fuse/draw.cuh"
#include "flame/ops/normal_internal.h"

namespace flame {
using T = FLAME_T;
using A = computed<T>;

struct Draw {
  uint64_t call;
  int64_t count;
  double f[4];       // uniform, normal: shift, scale; truncated: mean, std, a, b
  float g[2];        // shift and scale again
  uint64_t u[2];     // integers: low, range; bernoulli: threshold; truncated: first, range
  uint32_t key[20];  // of Philox's rounds
};

// out[i] = fn(word), `words` numbers a Philox block; a thread makes `each` packs of `blocks` blocks.
template <int words, int blocks, int each, class F>
void fill(const Draw& d, T* out, F fn) {
  constexpr int n = words * blocks;
  const uint64_t base = static_cast<uint64_t>(blockIdx.x) * (256 * blocks * each);
  const uint32_t low = static_cast<uint32_t>(base), high = static_cast<uint32_t>(base >> 32);
  out += static_cast<int64_t>(base) * words;
  const int64_t rest = d.count - static_cast<int64_t>(base) * words;
  constexpr int most = 256 * n * each;  // of a block of threads
  int left = (rest < most ? static_cast<int>(rest) : most) - static_cast<int>(threadIdx.x) * n;
  uint32_t block = low + threadIdx.x * blocks;
  const Start start = start_of(d, high);
  out += threadIdx.x * n;
#pragma unroll 1
  for (; left > 0; left -= 256 * n, block += 256 * blocks, out += 256 * n) {
    Pack<T, n> made;
#pragma unroll
    for (int b = 0; b < blocks; ++b) fn(block_of(d, start, block + b), made.v + words * b);
    if (left >= n) {
      *reinterpret_cast<Pack<T, n>*>(out) = made;
    } else {
#pragma unroll
      for (int i = 0; i < n; ++i)
        if (i < left) out[i] = made.v[i];
    }
  }
}
// Four numbers a block from 32 bits each; two from 64 bits.
template <class F>
void fill32(const Draw& d, T* out, F fn) {
  constexpr int blocks = sizeof(T) == 1 ? 4 : sizeof(T) == 2 ? 2 : 1;
  fill<4, blocks, 4>(d, out, [&](PhiloxBlock b, T* v) {
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = convert<T>(fn(b[i]));
  });
}
template <class F>
void fill64(const Draw& d, T* out, F fn) {
  fill<2, 1, 4>(d, out, [&](PhiloxBlock b, T* v) {
#pragma unroll
    for (int i = 0; i < 2; ++i) v[i] = convert<T>(fn(b[2 * i] | static_cast<uint64_t>(b[2 * i + 1]) << 32));
  });
}

// inverse_normal::from_bits(uint32_t) with the same bits in fewer instructions: what is multiplied by a power of two
// is exact, so there a fused multiply-add rounds as two steps do.
struct Normal {
  float z, w;
};
template <int n>
struct Scaled {
  float c[n];
  constexpr Scaled(const float (&from)[n]) {
    for (int i = 0; i < n; ++i) c[i] = from[i] * 0x1p-33f;
  }
};
inline Normal central(uint32_t bits) {
  constexpr Scaled scaled(inverse_normal::central32);
  const float p = static_cast<float>(bits * 2 + 1), q = static_cast<float>(bits * -2u - 1);  // times 2^33
  const float t = p * fmaf(p, -0x1p-33f, 1.0f);                                              // times 2^31
  const uint32_t u = __float_as_uint(t) + (0x3f800000u - 0x3f3504f3u + 0x800000u);           // exponent: 159 + e
  uint32_t inverse;                                 // of 2^(31 + e) in its exponent
  asm("not.b32 %0, %1;" : "=r"(inverse) : "r"(u));  // the compiler would make it of t, by one instruction more
  const float e = __uint_as_float((u >> 23) + 0x4b000000u) - (8388608.0f + 159.0f);
  const float f = fmaf(t, __uint_as_float(inverse & 0x7f800000u), -1.0f);
  const float y = fmaf(inverse_normal::polynomial(inverse_normal::log32, f), f, -0.5f);
  const float w = -fmaf(e, inverse_normal::log_of_2, fmaf(y, f * f, f));
  return {q * inverse_normal::polynomial(scaled.c, w - 2.5f), w};
}
// For w from 5 to 23, where this is the correctly rounded square root.
inline float tail(float w) {
  float r;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(w));
  const float g = w * r, s = fmaf(fmaf(-g, g, w), 0.5f * r, g);
  return inverse_normal::polynomial(inverse_normal::tail32, s - 3.4375f);
}

extern "C" __global__ void __launch_bounds__(256) rand_uniform(const __grid_constant__ Draw d, T* out) {
  const A shift = sizeof(A) == 8 ? d.f[0] : d.g[0], scale = sizeof(A) == 8 ? d.f[1] : d.g[1];
  if constexpr (std::is_same_v<A, double>)
    fill64(d, out, [=](uint64_t w) { return shift + scale * (static_cast<double>(w >> 11) * 0x1p-53); });
  else fill32(d, out, [=](uint32_t w) { return shift + scale * (static_cast<float>(w >> 8) * 0x1p-24f); });
}
extern "C" __global__ void __launch_bounds__(256) rand_normal(const __grid_constant__ Draw d, T* out) {
  const A shift = sizeof(A) == 8 ? d.f[0] : d.g[0], scale = sizeof(A) == 8 ? d.f[1] : d.g[1];
  if constexpr (std::is_same_v<A, double>) {
    fill64(d, out, [=](uint64_t w) { return shift + scale * inverse_normal::from_bits(w); });
  } else {
    constexpr int blocks = sizeof(T) == 2 ? 2 : 1;
    const bool standard = shift == 0 && scale == 1;  // no normal is 0, so these two change nothing
    fill<4, blocks, 4>(d, out, [&](PhiloxBlock b, T* v) {
      Normal n[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) n[i] = central(b[i]);
      if (fmaxf(fmaxf(n[0].w, n[1].w), fmaxf(n[2].w, n[3].w)) >= 5.0f) {  // 1 lane in 75
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (n[i].w >= 5.0f) n[i].z = tail(n[i].w);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) n[i].z = __uint_as_float(__float_as_uint(n[i].z) ^ (b[i] & 0x80000000u));
      if (!standard) {
#pragma unroll
        for (int i = 0; i < 4; ++i) n[i].z = shift + scale * n[i].z;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = convert<T>(n[i].z);
    });
  }
}
extern "C" __global__ void __launch_bounds__(256) rand_truncated(const __grid_constant__ Draw d, T* out) {
  fill64(d, out, [=](uint64_t w) {
    const uint64_t place = d.u[0] + __umul64hi(w, d.u[1]), half = 1ull << 63;
    const double z = inverse_normal::from_bits(place < half ? place | half : ~place);
    const double v = d.f[0] + d.f[1] * z, low = d.f[2], high = d.f[3];
    return static_cast<A>(v < low ? low : high < v ? high : v);
  });
}
extern "C" __global__ void __launch_bounds__(256) rand_integers(const __grid_constant__ Draw d, T* out) {
  fill64(d, out, [=](uint64_t w) { return static_cast<int64_t>(d.u[0] + __umul64hi(w, d.u[1])); });
}
extern "C" __global__ void __launch_bounds__(256) rand_bernoulli(const __grid_constant__ Draw d, T* out) {
  const bool any = d.u[0] != 0;
  const uint32_t last = static_cast<uint32_t>(d.u[0] - 1);  // the threshold may be 2^32
  fill32(d, out, [=](uint32_t w) { return any && w <= last; });
}

}  // namespace flame
