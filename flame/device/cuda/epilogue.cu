// What follows a matrix product where cuBLASLt does not do it inside: an activation with what its slope needs, that slope,
// and sums of rows. FLAME_T: the dtype; FLAME_RELU: 1 for relu, 0 for gelu_tanh; FLAME_IN_DOUBLE: 0 for 16 bits; a
// thread has 8 columns.
#include "flame/fuse/device.cuh"
#include "flame/fuse/scalar_math.h"

namespace flame {
using T = FLAME_T;
using namespace kernels;
using C = computed<T>;

// gelu_tanh is x sigmoid(z) with z = 2 sqrt(2 / pi) (x + 0.044715 x^3). Wide for float32, whose rounding is finer than what
// float32 exponentials of large arguments lose.
inline double e_to(double x) { return ::exp(x); }
inline float e_to(float x) { return ::expf(x); }
template <class M>
M sigmoid_of(M x) {
  const M e = e_to(x < 0 ? x : -x);
  return (x >= 0 ? M(1) : e) / (M(1) + e) + (x != x ? x : M(0));
}
#if FLAME_IN_DOUBLE
using M = double;
#else
using M = float;
#endif
constexpr M slope = M(1.59576912160573071176), cubic = M(0.044715);
inline M gelu(M x) { return x * sigmoid_of(slope * (x + cubic * x * x * x)); }
inline M gelu_slope(M x) {
  const M square = x * x, z = slope * x * (M(1) + cubic * square), s = sigmoid_of(z), rest = s * sigmoid_of(-z);
  return rest == 0 ? s : s + slope * x * (M(1) + 3 * cubic * square) * rest;  // far out, what rest multiplies may be infinite
}

struct alignas(16) Eight {
  T of[8];
};
// Eight numbers from `first` on of a row, or as many as there are; in 16-byte steps if `packed`.
inline Eight read(const T* row, int64_t first, int64_t columns, bool packed) {
  if (packed) return *reinterpret_cast<const Eight*>(row + first);
  Eight p;
  for (int i = 0; i < 8; ++i) p.of[i] = first + i < columns ? row[first + i] : convert<T>(C(0));
  return p;
}
inline void write(T* row, int64_t first, int64_t columns, bool packed, const Eight& p) {
  if (packed) *reinterpret_cast<Eight*>(row + first) = p;
  else
    for (int i = 0; i < 8 && first + i < columns; ++i) row[first + i] = p.of[i];
}

// c passes through the activation; `kept` is null, or gets a bit a number (relu), or the numbers before it (gelu_tanh).
extern "C" __global__ void __launch_bounds__(256)
    activate(T* c, void* kept, int64_t rows, int64_t columns, int64_t groups, bool packed) {
  const int64_t at = global_thread();
  if (at >= rows * groups) return;
  const int64_t row = at / groups, first = at % groups * 8;
  unsigned bits = 0;
  if (first < columns) {
    Eight p = read(c + row * columns, first, columns, packed);
#if !FLAME_RELU
    if (kept) write(static_cast<T*>(kept) + row * columns, first, columns, packed, p);
#endif
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const C x = widen(p.of[i]);
#if FLAME_RELU
      if (x > 0) bits |= 1u << i;
      else p.of[i] = convert<T>(C(0));
#else
      p.of[i] = convert<T>(static_cast<C>(gelu(x)));
#endif
    }
    write(c + row * columns, first, columns, packed, p);
  }
#if FLAME_RELU
  if (kept) static_cast<uint8_t*>(kept)[at] = static_cast<uint8_t>(bits);
#endif
}

// c times the activation's slope at what was kept.
extern "C" __global__ void __launch_bounds__(256)
    slopes(T* c, const void* kept, int64_t rows, int64_t columns, int64_t groups, bool packed) {
  const int64_t at = global_thread();
  if (at >= rows * groups) return;
  const int64_t row = at / groups, first = at % groups * 8;
  if (first >= columns) return;
  Eight p = read(c + row * columns, first, columns, packed);
#if FLAME_RELU
  const unsigned bits = static_cast<const uint8_t*>(kept)[at];
#else
  const Eight before = read(static_cast<const T*>(kept) + row * columns, first, columns, packed);
#endif
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#if FLAME_RELU
    if (!(bits >> i & 1)) p.of[i] = convert<T>(C(0));
#else
    p.of[i] = convert<T>(static_cast<C>(widen(p.of[i]) * gelu_slope(widen(before.of[i]))));
#endif
  }
  write(c + row * columns, first, columns, packed, p);
}

// The sums of a's rows, in float64: a block has 32 of them, eight threads a row, whose parts are added in order.
extern "C" __global__ void __launch_bounds__(256)
    row_sums(const T* a, T* sums, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step) {
  __shared__ double parts[8][32];
  const int x = threadIdx.x % 32, y = threadIdx.x / 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 32 + x;
  double sum = 0;
  if (row < rows)
    for (int64_t j = y; j < columns; j += 8) sum += static_cast<double>(widen(a[row * row_step + j * column_step]));
  parts[y][x] = sum;
  __syncthreads();
  if (y != 0 || row >= rows) return;
  for (int i = 1; i < 8; ++i) sum += parts[i][x];
  sums[row] = convert<T>(static_cast<C>(sum));
}

// The sums of a's columns in two passes. The first: of bands of rows; a block has 256 columns of one band, whose rows
// its eight warps take in turn.
#if FLAME_IN_DOUBLE
using S = double;
#else
using S = float;
#endif
extern "C" __global__ void __launch_bounds__(256)
    column_parts(const T* a, S* parts, int64_t rows, int64_t columns, int64_t row_step, int64_t band, bool packed) {
  __shared__ S of[8][256];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t across = (columns + 255) / 256, first = blockIdx.x % across * 256 + 8 * lane, top = blockIdx.x / across * band,
                end = top + band < rows ? top + band : rows;
  S sums[8] = {};
  if (first < columns) {
#pragma unroll 8
    for (int64_t row = top + warp; row < end; row += 8) {
      const Eight p = read(a + row * row_step, first, columns, packed);
#pragma unroll
      for (int i = 0; i < 8; ++i) sums[i] += static_cast<S>(widen(p.of[i]));
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) of[warp][i * 32 + lane] = sums[i];
  __syncthreads();
  const int64_t column = blockIdx.x % across * 256 + threadIdx.x;
  if (column >= columns) return;
  const int at = threadIdx.x % 8 * 32 + threadIdx.x / 8;
  S sum = of[0][at];
  for (int i = 1; i < 8; ++i) sum += of[i][at];
  parts[blockIdx.x / across * columns + column] = sum;
}
// The second: of `count` bands; a block has 32 columns, eight threads a column, whose parts are added in order.
extern "C" __global__ void __launch_bounds__(256) join_parts(const S* parts, T* sums, int64_t count, int64_t columns) {
  __shared__ double of[8][32];
  const int x = threadIdx.x % 32, y = threadIdx.x / 32;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + x;
  double sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t i = y; i < count; i += 8) sum += static_cast<double>(parts[i * columns + column]);
  }
  of[y][x] = sum;
  __syncthreads();
  if (y != 0 || column >= columns) return;
  for (int i = 1; i < 8; ++i) sum += of[i][x];
  sums[column] = convert<T>(static_cast<C>(sum));
}

}  // namespace flame
