// Rows of keys, each beside its place, sorted stably by eight bits of the key at a time: digits are counted a tile of a row,
// the counts are summed up, and a tile moves its entries to their places in order. FLAME_KEY: uint32_t or uint64_t.
#include "flame/fuse/block_scan.cuh"
#include "flame/fuse/device.cuh"

namespace flame {
using K = FLAME_KEY;
constexpr int threads = 256, warps = threads / 32, digits = 256;
constexpr int items = sizeof(K) == 8 ? 8 : 16, tile = threads * items;  // as in DeviceRadix

inline int digit_of(K key, int shift) { return static_cast<int>(key >> shift & (digits - 1)); }

// counts: [rows, digits, tiles]
extern "C" __global__ void __launch_bounds__(threads)
    radix_count(const K* keys, uint32_t* counts, int64_t n, int64_t tiles, int shift) {
  __shared__ uint32_t own[digits];
  const int64_t row = blockIdx.x / tiles, t = blockIdx.x % tiles;
  own[threadIdx.x] = 0;
  __syncthreads();
  for (int i = 0; i < items; ++i) {
    const int64_t at = t * tile + i * threads + threadIdx.x;
    if (at < n) atomicAdd(&own[digit_of(keys[row * n + at], shift)], 1u);
  }
  __syncthreads();
  counts[(row * digits + threadIdx.x) * tiles + t] = own[threadIdx.x];
}

// A block a row and digit: the counts of the tiles before each, and of all.
extern "C" __global__ void __launch_bounds__(threads) radix_sum(uint32_t* counts, uint32_t* totals, int64_t tiles) {
  uint32_t* own = counts + blockIdx.x * tiles;
  uint32_t done = 0;
  for (int64_t first = 0; first < tiles; first += threads) {
    const int64_t at = first + threadIdx.x;
    uint32_t all;
    const uint32_t before = sum_before<threads>(at < tiles ? own[at] : 0u, all);
    if (at < tiles) own[at] = done + before;
    done += all;
  }
  if (threadIdx.x == 0) totals[blockIdx.x] = done;
}

// A warp takes 32 neighbours at a time, so entries of one digit are met in order.
extern "C" __global__ void __launch_bounds__(threads)
    radix_move(const K* keys, const uint32_t* places, K* keys_out, uint32_t* places_out, const uint32_t* counts,
               const uint32_t* totals, int64_t n, int64_t tiles, int shift) {
  __shared__ uint32_t met[warps][digits], start[digits], base[digits];
  __shared__ K keys_here[tile];
  __shared__ uint32_t places_here[tile];
  const int64_t row = blockIdx.x / tiles, t = blockIdx.x % tiles, first = t * tile;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int w = 0; w < warps; ++w) met[w][threadIdx.x] = 0;
  __syncthreads();
  K key[items];
  uint32_t place[items], rank[items];
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const int64_t at = first + warp * 32 * items + i * 32 + lane;
    const bool here = at < n;
    key[i] = here ? keys[row * n + at] : K(0);
    place[i] = here ? places[row * n + at] : 0;
    const int d = digit_of(key[i], shift);
    uint32_t equal = __ballot_sync(~0u, here);
    if (!here) equal = ~equal;
    for (int b = 0; b < 8; ++b) {
      const uint32_t ones = __ballot_sync(~0u, d >> b & 1);
      equal &= d >> b & 1 ? ones : ~ones;
    }
    const uint32_t before = equal & ((1u << lane) - 1), so_far = met[warp][d];
    rank[i] = so_far + __popc(before);
    __syncwarp();
    if (here && before == 0) met[warp][d] = so_far + __popc(equal);
    __syncwarp();
  }
  __syncthreads();
  {
    const int d = threadIdx.x;
    uint32_t own = 0, all;
    for (int w = 0; w < warps; ++w) {
      const uint32_t here = met[w][d];
      met[w][d] = own;
      own += here;
    }
    start[d] = sum_before<threads>(own, all);
    const uint32_t smaller = sum_before<threads>(totals[row * digits + d], all);
    base[d] = smaller + counts[(row * digits + d) * tiles + t] - start[d];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < items; ++i) {
    if (first + warp * 32 * items + i * 32 + lane >= n) continue;
    const int d = digit_of(key[i], shift);
    const uint32_t to = start[d] + met[warp][d] + rank[i];
    keys_here[to] = key[i];
    places_here[to] = place[i];
  }
  __syncthreads();
  const int64_t here = n - first < tile ? n - first : tile;
  for (int64_t j = threadIdx.x; j < here; j += threads) {
    const K k = keys_here[j];
    const int64_t to = row * n + static_cast<uint32_t>(base[digit_of(k, shift)] + static_cast<uint32_t>(j));
    keys_out[to] = k;
    places_out[to] = places_here[j];
  }
}

}  // namespace flame
