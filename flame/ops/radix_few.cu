#include "flame/fuse/block_scan.cuh"
#include "flame/fuse/device.cuh"
namespace flame {
using K = FLAME_KEY;
constexpr int threads = 256, warps = threads / 32, digits = 256;
constexpr int items = FLAME_ITEMS, tile = threads * items;
inline int digit_of(K key, int shift) { return static_cast<int>(key >> shift & (digits - 1)); }
struct Digits {
  uint32_t met[warps][digits], start[digits];
};
inline int item_at(int i) { return threadIdx.x / 32 * 32 * items + i * 32 + threadIdx.x % 32; }
inline void order(Digits& s, const K (&key)[items], int64_t count, int shift, uint32_t (&to)[items]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int w = 0; w < warps; ++w) s.met[w][threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const bool here = item_at(i) < count;
    const int d = digit_of(key[i], shift);
    uint32_t equal = __ballot_sync(~0u, here);
    if (!here) equal = ~equal;
    for (int b = 0; b < 8; ++b) {
      const uint32_t ones = __ballot_sync(~0u, d >> b & 1);
      equal &= d >> b & 1 ? ones : ~ones;
    }
    const uint32_t before = equal & ((1u << lane) - 1), so_far = s.met[warp][d];
    to[i] = so_far + __popc(before);
    __syncwarp();
    if (here && before == 0) s.met[warp][d] = so_far + __popc(equal);
    __syncwarp();
  }
  __syncthreads();
  uint32_t own = 0, all;
  for (int w = 0; w < warps; ++w) {
    const uint32_t here = s.met[w][threadIdx.x];
    s.met[w][threadIdx.x] = own;
    own += here;
  }
  s.start[threadIdx.x] = sum_before<threads>(own, all);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const int d = digit_of(key[i], shift);
    to[i] += s.start[d] + s.met[warp][d];
  }
}
// counts: [tiles, digits] of this pass; next: of the one after, all zeros, or null
extern "C" __global__ void __launch_bounds__(threads)
    radix_few(const K* keys, const uint32_t* places, K* keys_out, uint32_t* places_out, const uint32_t* counts, uint32_t* next,
               int64_t n, int64_t tiles, int shift) {
  __shared__ Digits s;
  __shared__ uint32_t base[digits];
  __shared__ K keys_here[tile];
  __shared__ uint32_t places_here[tile];
  const int64_t t = blockIdx.x, first = t * tile;
  K key[items];
  uint32_t place[items], to[items];
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const int64_t at = first + item_at(i);
    key[i] = at < n ? keys[at] : K(0);
    place[i] = at < n ? (places ? places[at] : at) : 0;
  }
  uint32_t before = 0, total = 0;
#pragma unroll 8
  for (int q = 0; q < tiles; ++q) {
    const uint32_t c = counts[q * digits + threadIdx.x];
    before += q < t ? c : 0;
    total += c;
  }
  order(s, key, n - first, shift, to);
  {
    const int d = threadIdx.x;
    uint32_t all;
    const uint32_t smaller = sum_before<threads>(total, all);
    base[d] = smaller + before - s.start[d];
  }
#pragma unroll
  for (int i = 0; i < items; ++i) {
    if (first + item_at(i) >= n) continue;
    keys_here[to[i]] = key[i];
    places_here[to[i]] = place[i];
  }
  __syncthreads();
  const int64_t here = n - first < tile ? n - first : tile;
  for (int64_t j = threadIdx.x; j < here; j += threads) {
    const K k = keys_here[j];
    const uint32_t out = base[digit_of(k, shift)] + static_cast<uint32_t>(j);
    keys_out[out] = k;
    places_out[out] = places_here[j];
    if (next) atomicAdd(&next[out / tile * digits + digit_of(k, shift + 8)], 1u);
  }
}
}  // namespace flame
