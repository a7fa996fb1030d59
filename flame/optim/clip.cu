// Clipping over many gradients: sums of chunks in float64, their joining in an order that the sizes decide, and the scaling.
#include "flame/fuse/device.cuh"

namespace flame {

constexpr int64_t chunk = 4096;  // elements a block

struct Item {
  const void* x;
  void* out;
  int64_t count, first, dtype;
};
struct Items {
  int64_t count;
  Item item[256];
};
inline const Item& own_item(const Items& all) {
  int64_t low = 0, high = all.count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (all.item[middle].first <= blockIdx.x) low = middle;
    else high = middle - 1;
  }
  return all.item[low];
}

// fn(T{}) with the memory type of a floating dtype by its number.
template <class F>
void visit(int64_t dtype, F fn) {
  if (dtype == 5) fn(half{});
  else if (dtype == 6) fn(bhalf{});
  else if (dtype == 7) fn(float{});
  else fn(double{});
}
inline double joined(double a, double b, double p) {
  if (p != std::numeric_limits<double>::infinity()) return a + b;
  return a != a ? a : b != b || b > a ? b : a;
}
// The block's numbers become one in thread 0.
inline double reduce(double v, double p) {
  __shared__ double all[256];
  all[threadIdx.x] = v;
  for (int by = 128; by > 0; by /= 2) {
    __syncthreads();
    if (threadIdx.x < by) all[threadIdx.x] = joined(all[threadIdx.x], all[threadIdx.x + by], p);
  }
  __syncthreads();
  return all[0];
}

extern "C" __global__ void __launch_bounds__(256)
    norm_parts(const __grid_constant__ Items all, double* sums, double p) {
  const Item& t = own_item(all);
  const int64_t begin = (blockIdx.x - t.first) * chunk;
  double sum = 0;
  visit(t.dtype, [&](auto kind) {
    const auto* x = static_cast<const decltype(kind)*>(t.x);
    for (int64_t i = begin + threadIdx.x; i < begin + chunk && i < t.count; i += 256) {
      const double v = ::fabs(static_cast<double>(widen(x[i])));
      sum = joined(sum, p == 1 || p == std::numeric_limits<double>::infinity() ? v : p == 2 ? v * v : ::pow(v, p), p);
    }
  });
  const double total = reduce(sum, p);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

// The norm, and behind the sums the factor.
extern "C" __global__ void __launch_bounds__(256)
    norm_join(double* sums, int64_t chunks, double p, double limit, void* out, int64_t wide) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += 256) sum = joined(sum, sums[i], p);
  const double total = reduce(sum, p);
  if (threadIdx.x != 0) return;
  const double norm = p == 2                                                   ? ::sqrt(total)
                      : p == 1 || p == std::numeric_limits<double>::infinity() ? total
                                                                               : ::pow(total, 1 / p);
  if (wide) *static_cast<double*>(out) = norm;
  else *static_cast<float*>(out) = static_cast<float>(norm);
  const double wanted = limit / (norm + 1e-6);
  sums[chunks] = wanted > 1 ? 1 : wanted;  // NaN stays
}

template <class F>
void map(const Items& all, F fn) {
  const Item& t = own_item(all);
  const int64_t begin = (blockIdx.x - t.first) * chunk;
  visit(t.dtype, [&](auto kind) {
    using T = decltype(kind);
    const auto* x = static_cast<const T*>(t.x);
    auto* out = static_cast<T*>(t.out);
    for (int64_t i = begin + threadIdx.x; i < begin + chunk && i < t.count; i += 256)
      out[i] = convert<T>(fn(widen(x[i])));
  });
}
extern "C" __global__ void __launch_bounds__(256) scale(const __grid_constant__ Items all, const double* factor) {
  const double f = *factor;
  map(all, [f](auto v) { return v * static_cast<decltype(v)>(f); });
}
extern "C" __global__ void __launch_bounds__(256) clamp(const __grid_constant__ Items all, double limit) {
  map(all, [limit](auto v) {
    const auto high = static_cast<decltype(v)>(limit), below = v > high ? high : v;
    return below < -high ? -high : below;
  });
}

}  // namespace flame
