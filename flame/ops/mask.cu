// How many of a mask are true, and where: one block walks the mask in order, so places come out in row-major order.
#include "flame/fuse/device.cuh"

namespace flame {

constexpr int threads = 1024;

// The sum over the threads before this one, and of all.
inline int64_t before_me(int64_t own, int64_t& all) {
  __shared__ int64_t sums[threads];
  sums[threadIdx.x] = own;
  __syncthreads();
  for (int by = 1; by < threads; by *= 2) {
    const int64_t left = threadIdx.x >= by ? sums[threadIdx.x - by] : 0;
    __syncthreads();
    sums[threadIdx.x] += left;
    __syncthreads();
  }
  const int64_t through = sums[threadIdx.x];
  all = sums[threads - 1];
  __syncthreads();
  return through - own;
}

extern "C" __global__ void __launch_bounds__(threads) count_true(const bool* mask, int64_t* out, int64_t n) {
  int64_t own = 0, all = 0;
  for (int64_t i = threadIdx.x; i < n; i += threads) own += mask[i];
  before_me(own, all);
  if (threadIdx.x == 0) *out = all;
}

struct Sizes {
  int64_t rank, n;
  int64_t shape[8];
};
extern "C" __global__ void __launch_bounds__(threads)
    nonzero(const __grid_constant__ Sizes s, const bool* mask, int64_t* out) {
  int64_t done = 0;
  for (int64_t first = 0; first < s.n; first += threads) {
    const int64_t i = first + threadIdx.x;
    const bool here = i < s.n && mask[i];
    int64_t all;
    const int64_t place = done + before_me(here, all);
    done += all;
    if (!here) continue;
    int64_t rest = i;
    for (int64_t d = s.rank - 1; d >= 0; --d) {
      out[place * s.rank + d] = rest % s.shape[d];
      rest /= s.shape[d];
    }
  }
}

}  // namespace flame
