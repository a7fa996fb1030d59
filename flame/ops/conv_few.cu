// float32 convolutions of few channels over two axes, whose filters fit registers: a thread has four channels of y
// and walks over places, whose window of x it shares with its neighbours. forward, with FLAME_BIAS and FLAME_RELU as
// y is made; backward_weight, where dy counts where y is not 0 or less, if FLAME_RELU: a part of each number a block,
// which `join` adds in order, and the sums of dy with FLAME_BIAS. FLAME_C: channels of x; FLAME_R, FLAME_S: the
// window; FLAME_LANES: a quarter of y's channels; FLAME_ALIGNED: dy and y start at multiples of 16 bytes.
#include "flame/ops/conv_place.cuh"

namespace flame {
constexpr int channels = FLAME_C, rows = FLAME_R, columns = FLAME_S, inner = channels * rows * columns, lanes = FLAME_LANES;
constexpr int threads = 256, walkers = threads / lanes, outer = 4 * lanes, each = inner + 1;

// The window of a place, zeros beyond x.
inline void window(const Places& p, const Place& at, const float* x, float (&v)[inner]) {
  x += static_cast<int64_t>(at.n) * p.xs[0];
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    const int32_t row = at.row(p, r);
    const bool in_row = static_cast<uint32_t>(row) < static_cast<uint32_t>(p.h);
#pragma unroll
    for (int s = 0; s < columns; ++s) {
      const int32_t column = at.column(p, s);
      const bool inside = in_row && static_cast<uint32_t>(column) < static_cast<uint32_t>(p.w);
#pragma unroll
      for (int c = 0; c < channels; ++c)
        v[(r * columns + s) * channels + c] = inside ? __ldg(x + row * p.xs[2] + column * p.xs[3] + c * p.xs[1]) : 0.0f;
    }
  }
}
// Where number k of filter o lies.
inline int32_t filter_at(const Places& p, int32_t o, int32_t k) {
  return o * p.ws[0] + k % channels * p.ws[1] + k / channels / columns * p.ws[2] + k / channels % columns * p.ws[3];
}

inline float4 four(const float* x) {
  if (FLAME_ALIGNED) return __ldg(reinterpret_cast<const float4*>(x));
  return make_float4(x[0], x[1], x[2], x[3]);
}

extern "C" __global__ void __launch_bounds__(threads)
    forward(const __grid_constant__ Places p, const float* x, const float* w, const float* bias, float* y) {
  const int first = static_cast<int>(threadIdx.x) % lanes * 4, walker = static_cast<int>(threadIdx.x) / lanes;
  float filters[inner][4], added[4] = {};
#pragma unroll
  for (int q = 0; q < 4; ++q) {
#pragma unroll
    for (int k = 0; k < inner; ++k) filters[k][q] = __ldg(w + filter_at(p, first + q, k));
    if (FLAME_BIAS) added[q] = __ldg(bias + first + q);
  }
  const int32_t begin = static_cast<int32_t>(blockIdx.x) * p.per_block;
  const int32_t end = begin + p.per_block < p.places ? begin + p.per_block : p.places;
  const Place by(p, walkers);
  Place place(p, begin + walker);
#pragma unroll 2
  for (int32_t at = begin + walker; at < end; at += walkers, place.move(p, by)) {
    float v[inner], sum[4] = {};
    window(p, place, x, v);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
#pragma unroll
      for (int k = 0; k < inner; ++k) sum[q] = ::fmaf(v[k], filters[k][q], sum[q]);
      sum[q] += added[q];
      if (FLAME_RELU) sum[q] = sum[q] <= 0 ? 0 : sum[q];
    }
    *reinterpret_cast<float4*>(y + static_cast<int64_t>(at) * outer + first) = make_float4(sum[0], sum[1], sum[2], sum[3]);
  }
}

// parts: [numbers of dw and sums][blocks].
extern "C" __global__ void __launch_bounds__(threads)
    backward_weight(const __grid_constant__ Places p, const float* x, const float* dy, const float* y, float* parts) {
  __shared__ float all[outer * each];
  const int first = static_cast<int>(threadIdx.x) % lanes * 4, walker = static_cast<int>(threadIdx.x) / lanes;
  const int32_t begin = static_cast<int32_t>(blockIdx.x) * p.per_block;
  const int32_t end = begin + p.per_block < p.places ? begin + p.per_block : p.places;
  const Place by(p, walkers);
  Place place(p, begin + walker);
  float sum[each][4] = {};
  float4 g = {}, out = {};
  const auto fetch = [&](int32_t at) {
    if (at >= end) return;
    const int64_t from = static_cast<int64_t>(at) * outer + first;
    g = four(dy + from);
    if (FLAME_RELU) out = four(y + from);
  };
  fetch(begin + walker);
  for (int32_t at = begin + walker; at < end; at += walkers, place.move(p, by)) {
    float own[4] = {g.x, g.y, g.z, g.w}, v[inner];
    if (FLAME_RELU) {
      own[0] = out.x <= 0 ? 0 : own[0];
      own[1] = out.y <= 0 ? 0 : own[1];
      own[2] = out.z <= 0 ? 0 : own[2];
      own[3] = out.w <= 0 ? 0 : own[3];
    }
    fetch(at + walkers);
    window(p, place, x, v);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
#pragma unroll
      for (int k = 0; k < inner; ++k) sum[k][q] = ::fmaf(v[k], own[q], sum[k][q]);
      sum[inner][q] += own[q];
    }
  }
  // Of the walkers of a warp, then of the warps, one by one.
#pragma unroll
  for (int k = 0; k < each; ++k)
#pragma unroll
    for (int q = 0; q < 4; ++q)
#pragma unroll
      for (int step = lanes; step < 32; step *= 2) sum[k][q] += __shfl_xor_sync(0xffffffffu, sum[k][q], step);
  for (int warp = 0; warp < threads / 32; ++warp) {
    if (static_cast<int>(threadIdx.x) / 32 == warp && static_cast<int>(threadIdx.x) % 32 < lanes) {
#pragma unroll
      for (int q = 0; q < 4; ++q)
#pragma unroll
        for (int k = 0; k < each; ++k) {
          float& to = all[(first + q) * each + k];
          to = warp == 0 ? sum[k][q] : to + sum[k][q];
        }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < outer * each; i += threads) parts[static_cast<int64_t>(i) * gridDim.x + blockIdx.x] = all[i];
}

// A warp a number.
extern "C" __global__ void __launch_bounds__(threads)
    join(const __grid_constant__ Places p, const float* parts, int32_t blocks, float* dw, float* sums) {
  const int32_t number = static_cast<int32_t>(global_thread() / 32), lane = static_cast<int32_t>(threadIdx.x) % 32;
  if (number >= outer * each) return;
  float sum = 0;
  for (int32_t b = lane; b < blocks; b += 32) sum += parts[static_cast<int64_t>(number) * blocks + b];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane != 0) return;
  const int32_t o = number / each, k = number % each;
  if (k < inner) dw[filter_at(p, o, k)] = sum;
  else if (FLAME_BIAS) sums[o] = sum;
}

}  // namespace flame
