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
// This thread's elements of a chunk, all on their way at once.
constexpr int own = chunk / 256;
template <class T>
void load(const T* x, int64_t begin, int64_t count, T (&v)[own]) {
#pragma unroll
  for (int k = 0; k < own; ++k) {
    const int64_t i = begin + k * 256 + threadIdx.x;
    v[k] = i < count ? x[i] : T();
  }
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
  const double result = all[0];
  __syncthreads();  // before the next one's numbers
  return result;
}

extern "C" __global__ void __launch_bounds__(256)
    norm_parts(const __grid_constant__ Items all, double* sums, double p) {
  const Item& t = own_item(all);
  const int64_t begin = (blockIdx.x - t.first) * chunk;
  double sum = 0;
  visit(t.dtype, [&](auto kind) {
    decltype(kind) v[own];
    load(static_cast<const decltype(kind)*>(t.x), begin, t.count, v);  // 0 past the end
    if (p == 2) {
#pragma unroll
      for (int k = 0; k < own; ++k) sum += static_cast<double>(widen(v[k])) * static_cast<double>(widen(v[k]));
      return;
    }
    for (int k = 0; k < own; ++k) {
      const double a = ::fabs(static_cast<double>(widen(v[k])));
      sum = joined(sum, p == 1 || p == std::numeric_limits<double>::infinity() ? a : ::pow(a, p), p);
    }
  });
  const double total = reduce(sum, p);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

// The norm and the factor. Of gradients that are `scale` times too large (unless null) the norm is theirs without it; the factor
// takes it away as well, and is NaN if one of them is not finite.
extern "C" __global__ void __launch_bounds__(256) norm_join(const double* sums, int64_t chunks, double p, double limit,
                                                            const float* scale, void* out, int64_t wide,
                                                            double* factor) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += 256) sum = joined(sum, sums[i], p);
  const double total = reduce(sum, p);
  if (threadIdx.x != 0) return;
  const double by = scale ? static_cast<double>(*scale) : 1;
  const double all = p == 2                                                   ? ::sqrt(total)
                     : p == 1 || p == std::numeric_limits<double>::infinity() ? total
                                                                              : ::pow(total, 1 / p);
  const double norm = all / by;
  if (wide) *static_cast<double*>(out) = norm;
  else *static_cast<float*>(out) = static_cast<float>(norm);
  const double wanted = limit / (norm + 1e-6);
  const double clipped = wanted > 1 ? 1 : wanted;  // NaN stays
  *factor = !scale ? clipped : norm - norm == 0 ? clipped / by : std::numeric_limits<double>::quiet_NaN();
}

template <class F>
void map(const Items& all, F fn) {
  const Item& t = own_item(all);
  const int64_t begin = (blockIdx.x - t.first) * chunk;
  visit(t.dtype, [&](auto kind) {
    using T = decltype(kind);
    auto* out = static_cast<T*>(t.out);
    T v[own];
    load(static_cast<const T*>(t.x), begin, t.count, v);
#pragma unroll
    for (int k = 0; k < own; ++k) {
      const int64_t i = begin + k * 256 + threadIdx.x;
      if (i < t.count) out[i] = convert<T>(fn(widen(v[k])));
    }
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

// ---- adaptive: norms of units, a unit a slice along the first axis or a vector, in chunks of their own
struct Pair {
  const void *g, *p;
  void* out;
  int64_t size, chunks, count, first;  // elements and chunks of a unit, units, the first chunk among all tensors'
  int64_t g_dtype, p_dtype;
};
struct Pairs {
  int64_t count;
  Pair item[256];
};
struct Place {
  int64_t begin, end;
};
inline Place place_of(const Pair& t) {
  const int64_t own = blockIdx.x - t.first, unit = own / t.chunks, begin = unit * t.size + own % t.chunks * chunk;
  const int64_t end = (unit + 1) * t.size;
  return {begin, begin + chunk < end ? begin + chunk : end};
}
inline const Pair& own_pair(const Pairs& all) {
  int64_t low = 0, high = all.count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (all.item[middle].first <= blockIdx.x) low = middle;
    else high = middle - 1;
  }
  return all.item[low];
}
inline double squares(const void* from, int64_t dtype, const Place& l) {
  double sum = 0;
  visit(dtype, [&](auto kind) {
    const auto* x = static_cast<const decltype(kind)*>(from);
    for (int64_t i = l.begin + threadIdx.x; i < l.end; i += 256) {
      const double v = static_cast<double>(widen(x[i]));
      sum += v * v;
    }
  });
  return reduce(sum, 2);
}
extern "C" __global__ void __launch_bounds__(256) unit_squares(const __grid_constant__ Pairs all, double* sums) {
  const Pair& t = own_pair(all);
  const Place l = place_of(t);
  const double g = squares(t.g, t.g_dtype, l), p = squares(t.p, t.p_dtype, l);
  if (threadIdx.x > 0) return;
  sums[2 * static_cast<int64_t>(blockIdx.x)] = g;
  sums[2 * static_cast<int64_t>(blockIdx.x) + 1] = p;
}
extern "C" __global__ void __launch_bounds__(256)
    unit_scale(const __grid_constant__ Pairs all, const double* sums, double clip, double eps) {
  const Pair& t = own_pair(all);
  const Place l = place_of(t);
  const int64_t own = blockIdx.x - t.first, first = t.first + own / t.chunks * t.chunks;
  double g = 0, p = 0;
  for (int64_t i = threadIdx.x; i < t.chunks; i += 256) {
    g += sums[2 * (first + i)];
    p += sums[2 * (first + i) + 1];
  }
  g = reduce(g, 2);
  p = ::sqrt(reduce(p, 2));
  const double norm = ::sqrt(g), limit = clip * (p > eps ? p : eps), small = 1e-6;
  const double factor = norm > limit ? limit / (norm > small ? norm : small) : 1;
  visit(t.g_dtype, [&](auto kind) {
    using T = decltype(kind);
    const auto* x = static_cast<const T*>(t.g);
    auto* out = static_cast<T*>(t.out);
    for (int64_t i = l.begin + threadIdx.x; i < l.end; i += 256) {
      const auto v = widen(x[i]);
      out[i] = convert<T>(v * static_cast<decltype(v + v)>(factor));
    }
  });
}

}  // namespace flame
