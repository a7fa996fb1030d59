// The gradient to the filters of a small float32 convolution over two axes, on tensor cores (TF32): dw [o, taps and
// channels] sums over the places of y, of which each block takes a share, 32 at a time through shared memory, for 64
// filters and 96 numbers of each; a second launch adds the shares in order. x and dy are channels-last, their
// channels multiples of 4. FLAME_ALIGNED: both start at multiples of 16 bytes.
#include "flame/fuse/tensor_cores.cuh"
#include "flame/ops/conv_place.cuh"

namespace flame {
constexpr int tile_m = 64, tile_n = 96, slab = 32, stages = 4, threads = 192;
constexpr int pitch_m = tile_m + 8, pitch_n = tile_n + 8;  // a lane's four numbers of eight lanes lie in all banks

struct Filters {
  Places at;
  int32_t out, channels, columns, numbers;  // of y, of x, of the window, of a filter
};
struct Stage {
  float dy[slab][pitch_m], x[slab][pitch_n];
};

// Four numbers to shared memory, zeros if not `there`.
inline void copy_four(float* to, const float* from, bool there) {
#if FLAME_ALIGNED
  copy16(to, from, there);
#else
  for (int i = 0; i < 4; ++i) to[i] = there ? from[i] : 0.0f;
#endif
}

extern "C" __global__ void __launch_bounds__(threads)
    shares(const __grid_constant__ Filters f, const float* x, const float* dy, float* parts) {
  extern __shared__ __align__(16) unsigned char room[];
  Stage* const stage = reinterpret_cast<Stage*>(room);
  const Places& p = f.at;
  const int32_t across = (f.numbers + tile_n - 1) / tile_n, tiles = across * ((f.out + tile_m - 1) / tile_m);
  const int32_t tile = static_cast<int32_t>(blockIdx.x) % tiles, share = static_cast<int32_t>(blockIdx.x) / tiles;
  const int32_t m0 = tile / across * tile_m, n0 = tile % across * tile_n;
  const int32_t begin = share * p.per_block, end = begin + p.per_block < p.places ? begin + p.per_block : p.places;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, group = thread % 32 / 4, quad = thread % 4;

  // This thread copies four numbers of x for every eighth place, always of one tap.
  constexpr int walkers = threads / (tile_n / 4), turns = slab / walkers;
  const int32_t number = n0 + thread % (tile_n / 4) * 4, tap = number / f.channels, channel = number % f.channels;
  const int32_t tap_row = tap / f.columns, tap_column = tap % f.columns, walker = thread / (tile_n / 4);
  const Place by(p, walkers);
  Place place(p, begin + walker);
  const auto fetch = [&](int32_t first) {
    Stage& to = stage[(first - begin) / slab % stages];
#pragma unroll
    for (int k = 0; k < turns; ++k) {
      const int line = walker + walkers * k;
      const int32_t row = place.row(p, tap_row), column = place.column(p, tap_column);
      const bool there = first + line < end && number < f.numbers && static_cast<uint32_t>(row) < static_cast<uint32_t>(p.h) &&
                         static_cast<uint32_t>(column) < static_cast<uint32_t>(p.w);
      const int64_t from = static_cast<int64_t>(place.n) * p.xs[0] + row * p.xs[2] + column * p.xs[3] + channel;
      copy_four(&to.x[line][thread % (tile_n / 4) * 4], there ? x + from : x, there);
      place.move(p, by);
    }
    for (int i = thread; i < slab * tile_m / 4; i += threads) {
      const int line = i / (tile_m / 4), o = i % (tile_m / 4) * 4;
      const bool there = first + line < end && m0 + o < f.out;
      copy_four(&to.dy[line][o], there ? dy + static_cast<int64_t>(first + line) * f.out + m0 + o : dy, there);
    }
  };

  const int own_m = warp / 3 * 32 + 4 * group, own_n = warp % 3 * 32 + 4 * group;
  float c[2][4][4] = {};
  for (int s = 0; s < stages - 1; ++s) {
    if (begin + s * slab < end) fetch(begin + s * slab);
    commit();
  }
  for (int32_t first = begin; first < end; first += slab) {
    wait<stages - 2>();
    __syncthreads();
    if (first + (stages - 1) * slab < end) fetch(first + (stages - 1) * slab);
    commit();
    const Stage& now = stage[(first - begin) / slab % stages];
#pragma unroll
    for (int k = 0; k < slab; k += 8) {
      uint32_t a[4][2], b[4][2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float4 u = *reinterpret_cast<const float4*>(&now.dy[k + quad + 4 * e][own_m]);
        const float4 v = *reinterpret_cast<const float4*>(&now.x[k + quad + 4 * e][own_n]);
        a[0][e] = tensor_float(u.x), a[1][e] = tensor_float(u.y), a[2][e] = tensor_float(u.z), a[3][e] = tensor_float(u.w);
        b[0][e] = tensor_float(v.x), b[1][e] = tensor_float(v.y), b[2][e] = tensor_float(v.z), b[3][e] = tensor_float(v.w);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          multiply_tf32(c[i][j], a[2 * i][0], a[2 * i + 1][0], a[2 * i][1], a[2 * i + 1][1], b[j][0], b[j][1]);
    }
  }

  // Row 4 group + 2 i + r / 2 of the warp's tile, columns 8 quad + 4 (r % 2) and the next three.
  parts += static_cast<int64_t>(share) * f.out * f.numbers;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int32_t o = m0 + own_m + 2 * i + r / 2, n = n0 + warp % 3 * 32 + 8 * quad + 4 * (r % 2);
      if (o < f.out && n < f.numbers)
        *reinterpret_cast<float4*>(parts + o * f.numbers + n) =
            make_float4(c[i][0][r], c[i][1][r], c[i][2][r], c[i][3][r]);
    }
}

// A block adds the shares of 32 numbers, eight of them at a time.
extern "C" __global__ void __launch_bounds__(256)
    join_shares(const __grid_constant__ Filters f, const float* parts, int32_t count, float* dw) {
  __shared__ float sums[8][32];
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32, turn = static_cast<int32_t>(threadIdx.x) / 32;
  const int32_t all = f.out * f.numbers, number = static_cast<int32_t>(blockIdx.x) * 32 + lane;
  float sum = 0;
  if (number < all) {
#pragma unroll 8
    for (int32_t s = turn; s < count; s += 8) sum += parts[static_cast<int64_t>(s) * all + number];
  }
  sums[turn][lane] = sum;
  __syncthreads();
  if (turn != 0 || number >= all) return;
  for (int i = 1; i < 8; ++i) sum += sums[i][lane];
  const int32_t o = number / f.numbers, n = number % f.numbers, tap = n / f.channels;
  dw[o * f.at.ws[0] + n % f.channels * f.at.ws[1] + tap / f.columns * f.at.ws[2] + tap % f.columns * f.at.ws[3]] = sum;
}

}  // namespace flame
