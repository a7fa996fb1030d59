// Rows sorted by a bitonic network over (key, place), so that equal elements keep their order: stages of up to 2,048 entries in
// shared memory, wider ones in place. Rows are padded to a power of two. FLAME_T: the dtype.
#include "flame/core/philox.h"
#include "flame/fuse/device.cuh"

namespace flame {
using T = FLAME_T;

struct Entry {
  uint64_t key, place;
};
inline bool less(const Entry& a, const Entry& b) { return a.key != b.key ? a.key < b.key : a.place < b.place; }
constexpr Entry last{~0ull, ~0ull};  // behind all

// Rising with the element; equal for 0 and -0, and greatest for every NaN.
template <class V>
uint64_t key_of(V v) {
  if constexpr (std::is_integral_v<V>) {
    if constexpr (std::is_unsigned_v<V>) return v;
    else return static_cast<uint64_t>(static_cast<int64_t>(v)) ^ 1ull << 63;
  } else {
    const auto x = widen(v);
    if (x != x) return ~0ull;
    uint64_t u = 0;
    if constexpr (sizeof(x) == 8) u = static_cast<uint64_t>(__double_as_longlong(x));
    else u = static_cast<uint64_t>(__float_as_uint(x)) << 32;
    const uint64_t top = 1ull << 63;
    return u > top ? ~u : u & ~top | top;
  }
}
constexpr uint64_t nan_key = ~0ull;

// Over the rows: sizes of the other axes, and strides of x and of the results.
struct Rows {
  int64_t rows, n, padded, rank, x_step, y_step, wanted, first, middle, descending;
  int64_t shape[8], x[8], y[8];
};
inline void row_at(const Rows& r, int64_t row, int64_t& x, int64_t& y) {
  x = y = 0;
  for (int64_t i = r.rank - 1; i >= 0; --i) {
    const int64_t k = row % r.shape[i];
    row /= r.shape[i];
    x += k * r.x[i];
    y += k * r.y[i];
  }
}

extern "C" __global__ void __launch_bounds__(256) fill(const __grid_constant__ Rows r, const T* x, Entry* e) {
  const int64_t i = global_thread();
  if (i >= r.rows * r.padded) return;
  const int64_t row = i / r.padded, at = i % r.padded;
  if (at >= r.n) {
    e[i] = last;
    return;
  }
  int64_t from, to;
  row_at(r, row, from, to);
  const uint64_t key = key_of(x[from + at * r.x_step]);
  e[i] = {r.descending ? ~key : key, static_cast<uint64_t>(at)};
}
extern "C" __global__ void __launch_bounds__(256)
    fill_random(Entry* e, uint64_t seed, uint64_t call, int64_t n, int64_t padded) {
  const int64_t i = global_thread();
  if (i >= padded) return;
  const PhiloxBlock bits = philox(seed, static_cast<uint64_t>(i / 2), call);
  const int lane = i % 2 ? 2 : 0;
  e[i] = i < n ? Entry{bits[lane] | static_cast<uint64_t>(bits[lane + 1]) << 32, static_cast<uint64_t>(i)} : last;
}

inline void order(Entry& a, Entry& b, bool rising) {
  if (less(b, a) == rising) {
    const Entry c = a;
    a = b;
    b = c;
  }
}
constexpr int tile = 2048;

// Stages from width `from` to `to` that stay within a tile; the first begins with pairs at most a tile apart.
extern "C" __global__ void __launch_bounds__(1024)
    stages(Entry* e, int64_t total, int64_t padded, int64_t from, int64_t to) {
  __shared__ Entry own[tile];
  const int64_t base = static_cast<int64_t>(blockIdx.x) * tile;
  for (int i = threadIdx.x; i < tile; i += 1024) own[i] = base + i < total ? e[base + i] : last;
  __syncthreads();
  for (int64_t k = from; k <= to; k *= 2)
    for (int64_t j = k / 2 < tile / 2 ? k / 2 : tile / 2; j > 0; j /= 2) {
      const int t = threadIdx.x, i = static_cast<int>(2 * (t - t % j) + t % j);
      order(own[i], own[i + j], ((base + i) & (padded - 1) & k) == 0);
      __syncthreads();
    }
  for (int i = threadIdx.x; i < tile; i += 1024)
    if (base + i < total) e[base + i] = own[i];
}
// One step of a wider stage: pairs j apart.
extern "C" __global__ void __launch_bounds__(256) step(Entry* e, int64_t total, int64_t padded, int64_t k, int64_t j) {
  const int64_t t = global_thread();
  if (t >= total / 2) return;
  const int64_t i = 2 * (t - t % j) + t % j;
  order(e[i], e[i + j], (i & (padded - 1) & k) == 0);
}

extern "C" __global__ void __launch_bounds__(256)
    put(const __grid_constant__ Rows r, const Entry* e, const T* x, T* values, int64_t* places) {
  const int64_t i = global_thread();
  if (i >= r.rows * r.wanted) return;
  const int64_t row = i / r.wanted, at = i % r.wanted;
  int64_t from, to;
  row_at(r, row, from, to);
  const Entry* own = e + row * r.padded;
  int64_t which = r.first + at;
  if (r.middle && own[r.n - 1].key == nan_key) {  // the first NaN instead
    int64_t low = 0, high = r.n - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (own[middle].key == nan_key) high = middle;
      else low = middle + 1;
    }
    which = low;
  }
  const int64_t place = static_cast<int64_t>(own[which].place);
  values[to + at * r.y_step] = x[from + place * r.x_step];
  places[to + at * r.y_step] = place;
}
extern "C" __global__ void __launch_bounds__(256) put_places(const Entry* e, int64_t* out, int64_t n) {
  const int64_t i = global_thread();
  if (i < n) out[i] = static_cast<int64_t>(e[i].place);
}

}  // namespace flame
