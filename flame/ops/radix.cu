// Rows of keys, each beside its place, sorted stably by eight bits of the key at a time: digits are counted a tile of a row,
// the counts are summed up, and a tile moves its entries to their places in order. A row of one tile
// takes one launch. FLAME_KEY: uint32_t or uint64_t. FLAME_FEW: so few tiles that launches would be most of the time. They are smaller
// then and counted once; who moves an entry counts its next digit where it goes.
#include "flame/fuse/block_scan.cuh"
#include "flame/fuse/device.cuh"

namespace flame {
using K = FLAME_KEY;
constexpr int threads = 256, warps = threads / 32, digits = 256;
#ifdef FLAME_FEW
constexpr int items = 4;
#else
constexpr int items = sizeof(K) == 8 ? 8 : 16;
#endif
constexpr int tile = threads * items;  // as in DeviceRadix

inline int digit_of(K key, int shift) { return static_cast<int>(key >> shift & (digits - 1)); }

// What a block needs to order a tile by a digit.
struct Digits {
  uint32_t met[warps][digits], start[digits];
};
// The place in the tile of a thread's item.
inline int item_at(int i) { return threadIdx.x / 32 * 32 * items + i * 32 + threadIdx.x % 32; }
// to[i]: where item i goes in the tile. A warp takes 32 neighbours at a time, so entries of one digit are met in order.
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

inline void load(const K* keys, const uint32_t* places, int64_t first, int64_t n, K (&key)[items],
                 uint32_t (&place)[items]) {
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const int64_t at = first + item_at(i);
    key[i] = at < n ? keys[at] : K(0);
    place[i] = at < n ? places[at] : 0;
  }
}
// The tile in its new order, for all of the block.
inline void gather(K* keys, uint32_t* places, int64_t first, int64_t n, const K (&key)[items],
                   const uint32_t (&place)[items], const uint32_t (&to)[items]) {
#pragma unroll
  for (int i = 0; i < items; ++i) {
    if (first + item_at(i) >= n) continue;
    keys[to[i]] = key[i];
    places[to[i]] = place[i];
  }
  __syncthreads();
}

#ifdef FLAME_FEW
// counts: [passes, rows, tiles, digits], those of the first pass; the others begin at 0.
extern "C" __global__ void __launch_bounds__(threads)
    radix_first(const K* keys, uint32_t* counts, int64_t n, int64_t tiles, int passes) {
  __shared__ uint32_t own[digits];
  const int64_t row = blockIdx.x / tiles, t = blockIdx.x % tiles;
  own[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < items; ++i) {
    const int64_t at = t * tile + i * threads + threadIdx.x;
    if (at < n) atomicAdd(&own[digit_of(keys[row * n + at], 0)], 1u);
  }
  __syncthreads();
  for (int pass = 0; pass < passes; ++pass)
    counts[(static_cast<int64_t>(pass) * gridDim.x + blockIdx.x) * digits + threadIdx.x] =
        pass == 0 ? own[threadIdx.x] : 0;
}

// next: the counts of the pass after this one, or null.
extern "C" __global__ void __launch_bounds__(threads)
    radix_pass(const K* keys, const uint32_t* places, K* keys_out, uint32_t* places_out, const uint32_t* counts,
               uint32_t* next, int64_t n, int64_t tiles, int shift) {
  __shared__ Digits s;
  __shared__ uint32_t base[digits];
  __shared__ K keys_here[tile];
  __shared__ uint32_t places_here[tile];
  const int64_t row = blockIdx.x / tiles, t = blockIdx.x % tiles, first = t * tile;
  K key[items];
  uint32_t place[items], to[items];
  load(keys + row * n, places + row * n, first, n, key, place);
  uint32_t before = 0, total = 0, all;
#pragma unroll 8
  for (int64_t other = 0; other < tiles; ++other) {
    const uint32_t c = counts[(row * tiles + other) * digits + threadIdx.x];
    before += other < t ? c : 0;
    total += c;
  }
  order(s, key, n - first, shift, to);
  const uint32_t smaller = sum_before<threads>(total, all);
  base[threadIdx.x] = smaller + before - s.start[threadIdx.x];
  gather(keys_here, places_here, first, n, key, place, to);
  const int64_t here = n - first < tile ? n - first : tile;
  for (int64_t j = threadIdx.x; j < here; j += threads) {
    const K k = keys_here[j];
    const uint32_t at = base[digit_of(k, shift)] + static_cast<uint32_t>(j);
    keys_out[row * n + at] = k;
    places_out[row * n + at] = places_here[j];
    if (next) atomicAdd(&next[(row * tiles + at / tile) * digits + digit_of(k, shift + 8)], 1u);
  }
}
#else
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

extern "C" __global__ void __launch_bounds__(threads)
    radix_move(const K* keys, const uint32_t* places, K* keys_out, uint32_t* places_out, const uint32_t* counts,
               const uint32_t* totals, int64_t n, int64_t tiles, int shift) {
  __shared__ Digits s;
  __shared__ uint32_t base[digits];
  __shared__ K keys_here[tile];
  __shared__ uint32_t places_here[tile];
  const int64_t row = blockIdx.x / tiles, t = blockIdx.x % tiles, first = t * tile;
  K key[items];
  uint32_t place[items], to[items];
  load(keys + row * n, places + row * n, first, n, key, place);
  order(s, key, n - first, shift, to);
  {
    const int d = threadIdx.x;
    uint32_t all;
    const uint32_t smaller = sum_before<threads>(totals[row * digits + d], all);
    base[d] = smaller + counts[(row * digits + d) * tiles + t] - s.start[d];
  }
  gather(keys_here, places_here, first, n, key, place, to);
  const int64_t here = n - first < tile ? n - first : tile;
  for (int64_t j = threadIdx.x; j < here; j += threads) {
    const K k = keys_here[j];
    const int64_t out = row * n + static_cast<uint32_t>(base[digit_of(k, shift)] + static_cast<uint32_t>(j));
    keys_out[out] = k;
    places_out[out] = places_here[j];
  }
}

// A block a row of at most a tile: all digits in shared memory, in place.
extern "C" __global__ void __launch_bounds__(threads) radix_row(K* keys, uint32_t* places, int64_t n, int bits) {
  __shared__ Digits s;
  __shared__ K keys_here[tile];
  __shared__ uint32_t places_here[tile];
  keys += blockIdx.x * n;
  places += blockIdx.x * n;
  K key[items];
  uint32_t place[items], to[items];
  load(keys, places, 0, n, key, place);
  for (int shift = 0; shift < bits; shift += 8) {
    order(s, key, n, shift, to);
    gather(keys_here, places_here, 0, n, key, place, to);
#pragma unroll
    for (int i = 0; i < items; ++i) {
      if (item_at(i) >= n) continue;
      key[i] = keys_here[item_at(i)];
      place[i] = places_here[item_at(i)];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < items; ++i) {
    if (item_at(i) >= n) continue;
    keys[item_at(i)] = key[i];
    places[item_at(i)] = place[i];
  }
}
#endif

}  // namespace flame
