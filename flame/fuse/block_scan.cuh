// Scans over the threads of a block by any associative function, in the threads' order. No neutral element is needed.
#pragma once
#include "flame/fuse/device.cuh"

namespace flame {

template <class V>
V from_lane_before(const V& v, int by) {
  static_assert(sizeof(V) % 4 == 0, "moved by words");
  uint32_t words[sizeof(V) / 4];
  memcpy(words, &v, sizeof v);
  for (uint32_t& w : words) w = __shfl_up_sync(~0u, w, by);
  V out;
  memcpy(&out, words, sizeof out);
  return out;
}

// What comes before a thread; for the first one there is nothing.
template <class V>
struct Prefix {
  V before, all;  // `all` is the same in every thread
};
template <int threads, class V, class Join>
Prefix<V> scan_block(const V& own, Join join) {
  constexpr int warps = threads / 32;
  alignas(16) __shared__ unsigned char memory[warps * sizeof(V)];
  V* sums = reinterpret_cast<V*>(memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  V through = own;
  for (int by = 1; by < 32; by *= 2) {
    const V left = from_lane_before(through, by);
    if (lane >= by) through = join(left, through);
  }
  V before = from_lane_before(through, 1);
  __syncthreads();
  if (lane == 31) sums[warp] = through;
  __syncthreads();
  V all = sums[0];
  for (int w = 1; w < warps; ++w) {
    if (w == warp) before = lane == 0 ? all : join(all, before);
    all = join(all, sums[w]);
  }
  __syncthreads();
  return {before, all};
}

struct Plus {
  template <class V>
  V operator()(const V& a, const V& b) const {
    return a + b;
  }
};
// The sum over the threads before this one.
template <int threads, class V>
V sum_before(const V& own, V& all) {
  const Prefix<V> p = scan_block<threads>(own, Plus());
  all = p.all;
  return threadIdx.x == 0 ? V(0) : p.before;
}

}  // namespace flame
