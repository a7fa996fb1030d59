// float32 convolutions of few channels over two axes, whose filters fit registers: a thread has four channels of y and
// walks over places, FLAME_TOGETHER beside each other at a time, whose windows of x it shares with its neighbours.
// forward, with FLAME_BIAS and FLAME_RELU as y is made; backward_weight, where dy counts where y is not 0 or less, if
// FLAME_RELU: a part of each number a block, which `join` adds in order, and the sums of dy with FLAME_BIAS.
// FLAME_C: channels of x; FLAME_R, FLAME_S: the window; FLAME_LANES: a quarter of y's channels; FLAME_ALIGNED: dy and
// y start at multiples of 16 bytes; FLAME_RESIDENT: blocks that a multiprocessor has at once. More than one place
// together have windows whose columns lie beside each other, a column apart.
#include "flame/ops/conv_place.cuh"

namespace flame {
constexpr int channels = FLAME_C, rows = FLAME_R, columns = FLAME_S, inner = channels * rows * columns, lanes = FLAME_LANES;
constexpr int together = FLAME_TOGETHER, wide = columns + together - 1, seen = channels * rows * wide;
constexpr int threads = 256, walkers = threads / lanes, outer = 4 * lanes, each = inner + 1;

struct Few {
  Places at;      // of y, as many together counted as one
  int32_t width;  // places in a row
};

// The windows of the places that are together, zeros beyond x, which is channels-last.
inline void window(const Places& p, const Place& at, const float* x, float (&v)[seen]) {
  x += static_cast<int64_t>(at.n) * p.xs[0];
  const int32_t left = at.j * (together > 1 ? together : p.stride[1]) - p.padding[1];
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    const int32_t row = at.row(p, r);
    const bool in_row = static_cast<uint32_t>(row) < static_cast<uint32_t>(p.h);
    const float* const line = x + (row * p.xs[2] + left * channels);
#pragma unroll
    for (int s = 0; s < wide; ++s) {
      const int32_t ahead = s * (together > 1 ? 1 : p.dilation[1]);
      const bool inside = in_row && static_cast<uint32_t>(left + ahead) < static_cast<uint32_t>(p.w);
#pragma unroll
      for (int c = 0; c < channels; ++c)
        v[(r * wide + s) * channels + c] = inside ? __ldg(line + (ahead * channels + c)) : 0.0f;
    }
  }
}
// Number k of the window of the place t of those.
template <int size>
inline float number(const float (&v)[size], int k, int t) {
  return v[(k / channels / columns * wide + k / channels % columns + t) * channels + k % channels];
}
// Where in y the first of those places begins.
inline int32_t start(const Few& f, const Place& at) {
  return ((at.n * f.at.out_h + at.i) * f.width + at.j * together) * outer;
}
inline bool there(const Few& f, const Place& at, int t) { return t == 0 || at.j * together + t < f.width; }

// Where number k of filter o lies.
inline int32_t filter_at(const Places& p, int32_t o, int32_t k) {
  return o * p.ws[0] + k % channels * p.ws[1] + k / channels / columns * p.ws[2] + k / channels % columns * p.ws[3];
}

inline float4 four(const float* x) {
  if (FLAME_ALIGNED) return __ldg(reinterpret_cast<const float4*>(x));
  return make_float4(x[0], x[1], x[2], x[3]);
}

extern "C" __global__ void __launch_bounds__(threads, FLAME_RESIDENT)
    forward(const __grid_constant__ Few f, const float* x, const float* w, const float* bias, float* y) {
  const Places& p = f.at;
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
  for (int32_t at = begin + walker; at < end; at += walkers, place.move(p, by)) {
    float v[seen];
    window(p, place, x, v);
    float* const to = y + (start(f, place) + first);
#pragma unroll
    for (int t = 0; t < together; ++t) {
      float sum[4] = {};
#pragma unroll
      for (int q = 0; q < 4; ++q) {
#pragma unroll
        for (int k = 0; k < inner; ++k) sum[q] = ::fmaf(number(v, k, t), filters[k][q], sum[q]);
        sum[q] += added[q];
        if (FLAME_RELU) sum[q] = sum[q] <= 0 ? 0 : sum[q];
      }
      if (there(f, place, t)) *reinterpret_cast<float4*>(to + t * outer) = make_float4(sum[0], sum[1], sum[2], sum[3]);
    }
  }
}

// parts: [numbers of dw and sums][blocks].
extern "C" __global__ void __launch_bounds__(threads, FLAME_RESIDENT)
    backward_weight(const __grid_constant__ Few f, const float* x, const float* dy, const float* y, float* parts) {
  __shared__ float all[outer * each];
  const Places& p = f.at;
  const int first = static_cast<int>(threadIdx.x) % lanes * 4, walker = static_cast<int>(threadIdx.x) / lanes;
  const int32_t begin = static_cast<int32_t>(blockIdx.x) * p.per_block;
  const int32_t end = begin + p.per_block < p.places ? begin + p.per_block : p.places;
  const Place by(p, walkers);
  Place place(p, begin + walker);
  float sum[each][4] = {};
  float4 g[together] = {}, out[together] = {};
  const auto fetch = [&](int32_t at, const Place& place) {
    if (at >= end) return;
    const int32_t from = start(f, place) + first;
#pragma unroll
    for (int t = 0; t < together; ++t) {
      if (!there(f, place, t)) continue;
      g[t] = four(dy + from + t * outer);
      if (FLAME_RELU) out[t] = four(y + from + t * outer);
    }
  };
  fetch(begin + walker, place);
  for (int32_t at = begin + walker; at < end; at += walkers) {
    float own[together][4], v[seen];
#pragma unroll
    for (int t = 0; t < together; ++t) {
      own[t][0] = FLAME_RELU && out[t].x <= 0 ? 0 : g[t].x;
      own[t][1] = FLAME_RELU && out[t].y <= 0 ? 0 : g[t].y;
      own[t][2] = FLAME_RELU && out[t].z <= 0 ? 0 : g[t].z;
      own[t][3] = FLAME_RELU && out[t].w <= 0 ? 0 : g[t].w;
    }
    const Place now = place;
    place.move(p, by);
    fetch(at + walkers, place);
    window(p, now, x, v);
#pragma unroll
    for (int t = 0; t < together; ++t) {
      if (!there(f, now, t)) continue;
#pragma unroll
      for (int q = 0; q < 4; ++q) {
#pragma unroll
        for (int k = 0; k < inner; ++k) sum[k][q] = ::fmaf(number(v, k, t), own[t][q], sum[k][q]);
        sum[inner][q] += own[t][q];
      }
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
    join(const __grid_constant__ Few f, const float* parts, int32_t blocks, float* dw, float* sums) {
  const int32_t number = static_cast<int32_t>(global_thread() / 32), lane = static_cast<int32_t>(threadIdx.x) % 32;
  if (number >= outer * each) return;
  float sum = 0;
  for (int32_t b = lane; b < blocks; b += 32) sum += parts[static_cast<int64_t>(number) * blocks + b];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane != 0) return;
  const int32_t o = number / each, k = number % each;
  if (k < inner) dw[filter_at(f.at, o, k)] = sum;
  else if (FLAME_BIAS) sums[o] = sum;
}

}  // namespace flame
