// How many of a mask are true, and where: blocks count their tiles, one block adds the counts up, and blocks write the places
// of their tiles, so that places come out in row-major order.
#include "flame/fuse/block_scan.cuh"
#include "flame/fuse/device.cuh"

namespace flame {

constexpr int threads = 256, items = 16, tile = threads * items;  // as in mask.cpp

// A thread's neighbours, a bit each.
inline uint32_t my_items(const bool* mask, int64_t n, int64_t first) {
  uint32_t bits = 0;
  if (first + items <= n && reinterpret_cast<uint64_t>(mask) % 16 == 0) {
    const uint4 w = *reinterpret_cast<const uint4*>(mask + first);
    const auto four = [](uint32_t bytes) { return bytes * 0x01020408u >> 24 & 15u; };
    return four(w.x) | four(w.y) << 4 | four(w.z) << 8 | four(w.w) << 12;
  }
  for (int i = 0; i < items; ++i)
    if (first + i < n) bits |= static_cast<uint32_t>(mask[first + i]) << i;
  return bits;
}

extern "C" __global__ void __launch_bounds__(threads) count_tiles(const bool* mask, int64_t* counts, int64_t n) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile + threadIdx.x * items;
  uint32_t all;
  sum_before<threads>(static_cast<uint32_t>(__popc(my_items(mask, n, first))), all);
  if (threadIdx.x == 0) counts[blockIdx.x] = all;
}

// Counts become how many come before each tile; `sum`: how many there are.
extern "C" __global__ void __launch_bounds__(1024) sum_tiles(int64_t* counts, int64_t* sum, int64_t tiles) {
  int64_t done = 0;
  for (int64_t first = 0; first < tiles; first += 1024) {
    const int64_t at = first + threadIdx.x;
    int64_t all;
    const int64_t before = sum_before<1024>(at < tiles ? counts[at] : int64_t(0), all);
    if (at < tiles) counts[at] = done + before;
    done += all;
  }
  if (threadIdx.x == 0 && sum) *sum = done;
}

struct Sizes {
  int64_t rank, n;
  int64_t shape[8];
};
extern "C" __global__ void __launch_bounds__(threads)
    nonzero(const __grid_constant__ Sizes s, const bool* mask, const int64_t* starts, int64_t* out) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * tile + threadIdx.x * items;
  const uint32_t own = my_items(mask, s.n, first);
  uint32_t all;
  int64_t to = starts[blockIdx.x] + sum_before<threads>(static_cast<uint32_t>(__popc(own)), all);
  for (uint32_t left = own; left; left &= left - 1, ++to) {
    each_axis(first + __ffs(left) - 1, s.rank, s.shape, [&](int d, int64_t k) { out[to * s.rank + d] = k; });
  }
}

}  // namespace flame
