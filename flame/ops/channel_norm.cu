// Sums over all axes but the channels', which come last in memory: x is [rows, channels]. A block adds up a tile of columns over
// its share of the rows, then columns of those partial sums are joined; every order follows from shapes alone. FLAME_T: x and
// its gradient; FLAME_PACK: channels a thread, read at once if FLAME_ALIGNED; FLAME_ACROSS: packs of a tile's row.
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;
using C = computed<T>;
constexpr int pack = FLAME_PACK, across = FLAME_ACROSS, threads = 256, down = threads / across;
using X = Pack<T, pack>;

struct Channels {
  int64_t rows, channels, share;  // rows a block
};
inline X pack_at(const T* x) {
  X out;
  if constexpr (FLAME_ALIGNED && sizeof(X) == 16) out = std::bit_cast<X>(__ldg(reinterpret_cast<const uint4*>(x)));
  else if constexpr (FLAME_ALIGNED) out = read(reinterpret_cast<const X*>(x));
  else
    for (int j = 0; j < pack; ++j) out.v[j] = x[j];
  return out;
}
// Where a thread works.
struct Place {
  int64_t begin, end, first;  // rows of the block, channel of the pack
  int line;                   // of the block's threads
  bool inside;
  explicit Place(const Channels& n)
      : begin(static_cast<int64_t>(blockIdx.y) * n.share),
        end(begin + n.share < n.rows ? begin + n.share : n.rows),
        first((static_cast<int64_t>(blockIdx.x) * across + threadIdx.x % across) * pack),
        line(static_cast<int>(threadIdx.x) / across),
        inside(first < n.channels) {}
};
// The lines' sums of a and b, joined in order: thread i < across * pack has those of the tile's column i.
inline void lines_joined(const C (&a)[pack], const C (&b)[pack], C& all_a, C& all_b) {
  __shared__ C parts[2][down][across * pack + 1];
  const int own = static_cast<int>(threadIdx.x), line = own / across, column = own % across * pack;
  for (int j = 0; j < pack; ++j) {
    parts[0][line][column + j] = a[j];
    parts[1][line][column + j] = b[j];
  }
  __syncthreads();
  all_a = all_b = 0;
  if (own >= across * pack) return;
  for (int k = 0; k < down; ++k) {
    all_a += parts[0][k][own];
    all_b += parts[1][k][own];
  }
}
inline C* part_of(const Channels& n, C* parts, int64_t block, int which) {
  return parts + (2 * block + which) * n.channels;
}

// Each block's mean of a channel, and its summed squared distance from it: both from the distances to the block's first row.
extern "C" __global__ void __launch_bounds__(threads, 4)
    moments(const __grid_constant__ Channels n, const T* x, C* parts) {
  const Place p(n);
  C shift[pack] = {}, sum[pack] = {}, squares[pack] = {};
  if (p.inside) {
    const X at = pack_at(x + p.begin * n.channels + p.first);
    for (int j = 0; j < pack; ++j) shift[j] = widen(at.v[j]);
#pragma unroll 4
    for (int64_t row = p.begin + p.line; row < p.end; row += down) {
      const X v = pack_at(x + row * n.channels + p.first);
      for (int j = 0; j < pack; ++j) {
        const C d = widen(v.v[j]) - shift[j];
        sum[j] += d;
        squares[j] = std::fma(d, d, squares[j]);
      }
    }
  }
  C all, all_squares;
  lines_joined(sum, squares, all, all_squares);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * across * pack + threadIdx.x;
  if (threadIdx.x >= across * pack || column >= n.channels) return;
  const C count = static_cast<C>(p.end - p.begin), mean = all / count;
  const C from = widen(x[p.begin * n.channels + column]), left = all_squares - all * mean;
  part_of(n, parts, blockIdx.y, 0)[column] = from + mean;
  part_of(n, parts, blockIdx.y, 1)[column] = left > 0 ? left : (left == left ? C(0) : left);
}

// Each block's sums of g and of g u, u being the normalised x.
extern "C" __global__ void __launch_bounds__(threads, 4)
    slopes(const __grid_constant__ Channels n, const T* x, const T* g, const C* means, const C* scales, C* parts) {
  const Place p(n);
  C mean[pack] = {}, scale[pack] = {}, plain[pack] = {}, along[pack] = {};
  if (p.inside) {
    for (int j = 0; j < pack; ++j) {
      mean[j] = means[p.first + j];
      scale[j] = scales[p.first + j];
    }
#pragma unroll 2
    for (int64_t row = p.begin + p.line; row < p.end; row += down) {
      const X v = pack_at(x + row * n.channels + p.first), of_g = pack_at(g + row * n.channels + p.first);
      for (int j = 0; j < pack; ++j) {
        const C own = widen(of_g.v[j]);
        plain[j] += own;
        along[j] = std::fma(own, (widen(v.v[j]) - mean[j]) * scale[j], along[j]);
      }
    }
  }
  C all, all_along;
  lines_joined(plain, along, all, all_along);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * across * pack + threadIdx.x;
  if (threadIdx.x >= across * pack || column >= n.channels) return;
  part_of(n, parts, blockIdx.y, 0)[column] = all;
  part_of(n, parts, blockIdx.y, 1)[column] = all_along;
}

// The sum over k of what(k), k from 0 to `count`, by a column of 32 threads, in every one of them; 32 columns a block.
template <class F>
C column_sum(int64_t count, const F& what) {
  __shared__ C parts[32][33];
  const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
  C sum = 0;
#pragma unroll 4
  for (int64_t k = line; k < count; k += 32) sum += what(k);
  __syncthreads();
  parts[line][lane] = sum;
  __syncthreads();
  sum = 0;
  for (int k = 0; k < 32; ++k) sum += parts[k][lane];
  return sum;
}
extern "C" __global__ void __launch_bounds__(1024)
    join_moments(const __grid_constant__ Channels n, const C* parts, int64_t blocks, C* means, C* vars) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x % 32;
  const int64_t own = column < n.channels ? column : 0;
  const auto count = [&](int64_t k) {
    return static_cast<C>((k + 1) * n.share < n.rows ? n.share : n.rows - k * n.share);
  };
  const auto part = [&](int64_t k, int which) { return parts[(2 * k + which) * n.channels + own]; };
  const C all = static_cast<C>(n.rows);
  const C mean = column_sum(blocks, [&](int64_t k) { return part(k, 0) * (count(k) / all); });
  const C squares = column_sum(blocks, [&](int64_t k) {
    const C d = part(k, 0) - mean;
    return std::fma(d * d, count(k), part(k, 1));
  });
  if (threadIdx.x >= 32 || column >= n.channels) return;
  means[column] = mean;
  vars[column] = squares / all;
}
extern "C" __global__ void __launch_bounds__(1024)
    join_slopes(const __grid_constant__ Channels n, const C* parts, int64_t blocks, C* plain, C* along) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x % 32;
  const int64_t own = column < n.channels ? column : 0;
  const C a = column_sum(blocks, [&](int64_t k) { return parts[2 * k * n.channels + own]; });
  const C b = column_sum(blocks, [&](int64_t k) { return parts[(2 * k + 1) * n.channels + own]; });
  if (threadIdx.x >= 32 || column >= n.channels) return;
  plain[column] = a;
  along[column] = b;
}
}  // namespace flame
