// Cross entropy over the last axis: a row's largest logit and its sum of exponentials in one reading, the gradient in one
// more and a writing. FLAME_T: dtype of the logits; FLAME_THREADS: of a row, a warp or a block of its own; FLAME_SMOOTH:
// whether labels are smoothed.
#include "flame/fuse/device.cuh"
#include "flame/fuse/device_math.cuh"

namespace flame {
using namespace kernels;
using T = FLAME_T;
using C = computed<T>;
constexpr int threads = FLAME_THREADS, pack = 16 / sizeof(T), block_rows = threads == 32 ? 8 : 1;
using X = Pack<T, pack>;

struct Loss {
  int64_t rows, classes, ignored;
  double kept, share;  // 1 - smoothing, smoothing / classes
};
// e^(x - a - b), x - a first, since a multiple of either may leave the range. What 16-bit logits round away need not be
// computed.
inline C exponential(C x, C a, C b) {
  if constexpr (sizeof(T) == 2) {
    constexpr float log2e = 1.44269504088896340736f;
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(::fmaf(static_cast<float>(x - a), log2e, -static_cast<float>(b) * log2e)));
    return y;
  } else {
    return vec_exp((x - a) - b);
  }
}
inline int64_t own_row() { return static_cast<int64_t>(blockIdx.x) * block_rows + threadIdx.x / threads; }

// fn(first element, count, values) over a row by this thread: single elements up to the first aligned place, then packs.
template <class F>
void walk(const T* x, int64_t n, bool by_packs, const F& fn) {
  const int own = threadIdx.x % threads;
  const int64_t past = reinterpret_cast<uint64_t>(x) % 16 / sizeof(T);
  int64_t begin = by_packs ? (pack - past) % pack : n;
  begin = begin < n ? begin : n;
  const int64_t packs = (n - begin) / pack;
  C one[1], v[pack];
  for (int64_t i = own; i < begin; i += threads) {
    one[0] = widen(x[i]);
    fn(i, 1, one);
  }
#pragma unroll 4
  for (int64_t k = own; k < packs; k += threads) {
    const X p = *reinterpret_cast<const X*>(x + begin + k * pack);
    for (int j = 0; j < pack; ++j) v[j] = widen(p.v[j]);
    fn(begin + k * pack, pack, v);
  }
  for (int64_t i = begin + packs * pack + own; i < n; i += threads) {
    one[0] = widen(x[i]);
    fn(i, 1, one);
  }
}

// Exponentials summed relative to the largest number so far, and the logits, each times the share of its smoothed label.
struct Sum {
  C top, sum, plain;
  static C finite(C x) { return x == -std::numeric_limits<C>::infinity() ? C(0) : x; }
  void add(const Sum& o) {
    const C high = o.top > top ? o.top : top, from = finite(high);
    sum = sum * exponential(top, from, 0) + o.sum * exponential(o.top, from, 0);
    plain += o.plain;
    top = high;
  }
  Sum other(int by) const {
    return {__shfl_xor_sync(0xffffffffu, top, by), __shfl_xor_sync(0xffffffffu, sum, by),
            __shfl_xor_sync(0xffffffffu, plain, by)};
  }
};

extern "C" __global__ void __launch_bounds__(threads* block_rows)
    forward(const __grid_constant__ Loss l, const T* x, const int64_t* target, C* loss, C* tops, C* log_sums) {
  const int64_t row = own_row();
  if (row >= l.rows) return;  // whole warps
  x += row * l.classes;
  Sum s{-std::numeric_limits<C>::infinity(), 0, 0};
  [[maybe_unused]] const C share = static_cast<C>(l.share);
  walk(x, l.classes, true, [&](int64_t, int count, const C* v) {
    C high = s.top;
    for (int j = 0; j < count; ++j) high = v[j] > high ? v[j] : high;  // a NaN reaches the sum
    const C from = Sum::finite(high);
    C sum = s.top == high ? s.sum : s.sum * exponential(s.top, from, 0);
    for (int j = 0; j < count; ++j) {
      sum += exponential(v[j], from, 0);
      if (FLAME_SMOOTH) s.plain = std::fma(v[j], share, s.plain);
    }
    s.sum = sum;
    s.top = high;
  });
  for (int by = 16; by > 0; by /= 2) s.add(s.other(by));
  if constexpr (threads > 32) {
    __shared__ Sum all[threads / 32];
    if (threadIdx.x % 32 == 0) all[threadIdx.x / 32] = s;
    __syncthreads();
    s = all[0];
    for (int i = 1; i < threads / 32; ++i) s.add(all[i]);
  }
  if (threadIdx.x % threads != 0) return;
  const int64_t t = target[row];
  const C log_sum = vec_log(s.sum);
  C own = 0;
  if (t != l.ignored) {
    const bool known = t >= 0 && t < l.classes;
    own = known ? log_sum - (widen(x[t]) - s.top) : std::numeric_limits<C>::quiet_NaN();
    if (FLAME_SMOOTH) {
      const C smoothing = static_cast<C>(l.share * static_cast<double>(l.classes));
      own = own * static_cast<C>(l.kept) + (log_sum * smoothing - (s.plain - s.top * smoothing));
    }
  }
  loss[row] = own;
  tops[row] = s.top;
  log_sums[row] = log_sum;
}

extern "C" __global__ void __launch_bounds__(threads* block_rows)
    backward(const __grid_constant__ Loss l, const T* x, const int64_t* target, const C* tops, const C* log_sums,
             const C* factors, int64_t step, T* dx) {
  const int64_t row = own_row();
  if (row >= l.rows) return;
  x += row * l.classes;
  dx += row * l.classes;
  const int64_t t = target[row];
  const C top = tops[row], log_sum = log_sums[row], factor = factors[row * step];
  [[maybe_unused]] const C kept = static_cast<C>(l.kept), share = static_cast<C>(l.share);
  [[maybe_unused]] const C n = static_cast<C>(l.classes);
  const bool counts = t != l.ignored;
  const bool alike = (reinterpret_cast<uint64_t>(x) - reinterpret_cast<uint64_t>(dx)) % 16 == 0;
  walk(x, l.classes, alike, [&](int64_t at, int count, const C* v) {
    X out;
    const int64_t hit = t - at;  // only one pack of a row has the target
    const bool here = hit >= 0 && hit < count;
    for (int j = 0; j < pack; ++j) {
      if (j >= count) break;
      const C p = exponential(v[j], top, log_sum);
      C d = here && j == hit ? p - 1 : p;
      if (FLAME_SMOOTH) d = d * kept + (p * n - 1) * share;
      out.v[j] = convert<T>(counts ? d * factor : C(0));
    }
    if (count == pack && pack > 1) *reinterpret_cast<X*>(dx + at) = out;
    else dx[at] = out.v[0];
  });
}

}  // namespace flame
