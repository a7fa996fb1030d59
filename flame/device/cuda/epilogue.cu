// What follows a matrix product where cuBLASLt does not do it inside: an activation with what its slope needs, that slope,
// and sums of rows. FLAME_T: the dtype; FLAME_RELU: 1 for relu, 0 for gelu_tanh; a thread has 8 columns of one row.
#include "flame/fuse/device.cuh"
#include "flame/fuse/scalar_math.h"

namespace flame {
using T = FLAME_T;
using namespace kernels;
using C = computed<T>;

inline double e_to(double x) { return ::exp(x); }
inline float e_to(float x) { return ::expf(x); }
inline C sigmoid_of(C x) {
  const C e = e_to(x < 0 ? x : -x);
  return (x >= 0 ? C(1) : e) / (C(1) + e) + (x != x ? x : C(0));
}
constexpr C slope = C(1.59576912160573071176), cubic = C(0.044715);  // 2 sqrt(2 / pi)

// c passes through the activation; `kept` is null, or gets a bit a number (relu), or the numbers before it (gelu_tanh).
extern "C" __global__ void __launch_bounds__(256)
    activate(T* c, void* kept, int64_t rows, int64_t columns, int64_t groups) {
  const int64_t at = global_thread();
  if (at >= rows * groups) return;
  const int64_t row = at / groups, first = at % groups * 8;
  unsigned bits = 0;
  for (int i = 0; i < 8 && first + i < columns; ++i) {
    T& here = c[row * columns + first + i];
    const C x = widen(here);
#if FLAME_RELU
    if (x > 0) bits |= 1u << i;
    else here = convert<T>(C(0));
#else
    if (kept) static_cast<T*>(kept)[row * columns + first + i] = here;
    here = convert<T>(x * sigmoid_of(slope * (x + cubic * x * x * x)));
#endif
  }
#if FLAME_RELU
  if (kept) static_cast<uint8_t*>(kept)[at] = static_cast<uint8_t>(bits);
#endif
}

// c times the activation's slope at what was kept.
extern "C" __global__ void __launch_bounds__(256)
    slopes(T* c, const void* kept, int64_t rows, int64_t columns, int64_t groups) {
  const int64_t at = global_thread();
  if (at >= rows * groups) return;
  const int64_t row = at / groups, first = at % groups * 8;
  for (int i = 0; i < 8 && first + i < columns; ++i) {
    T& here = c[row * columns + first + i];
#if FLAME_RELU
    if (!(static_cast<const uint8_t*>(kept)[at] >> i & 1)) here = convert<T>(C(0));
#else
    const C x = widen(static_cast<const T*>(kept)[row * columns + first + i]), square = x * x;
    const C z = slope * x * (C(1) + cubic * square), s = sigmoid_of(z);
    here = convert<T>(widen(here) * (s + slope * x * (C(1) + 3 * cubic * square) * s * sigmoid_of(-z)));
#endif
  }
}

// The sums of a's rows: a block has 32 of them, eight threads a row, whose parts are added in order.
extern "C" __global__ void __launch_bounds__(256)
    row_sums(const T* a, T* sums, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step) {
  __shared__ C parts[8][32];
  const int x = threadIdx.x % 32, y = threadIdx.x / 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 32 + x;
  C sum = 0;
  if (row < rows)
    for (int64_t j = y; j < columns; j += 8) sum = plus(sum, C(widen(a[row * row_step + j * column_step])));
  parts[y][x] = sum;
  __syncthreads();
  if (y != 0 || row >= rows) return;
  for (int i = 1; i < 8; ++i) sum = plus(sum, parts[i][x]);
  sums[row] = convert<T>(sum);
}

}  // namespace flame
