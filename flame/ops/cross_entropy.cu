// Cross entropy over the last axis: a row's largest logit and its sum of exponentials in one reading, the gradient in one
// more and a writing, or both with the row kept in shared memory. FLAME_T: dtype of the logits; FLAME_THREADS: of a
// row, a warp or a block of its own; FLAME_SMOOTH: whether labels are smoothed; FLAME_KEPT: of `both`, whether a row
// is kept.
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

// fn(first element, values, as they lie) over a row by this thread: single elements up to the first aligned place,
// then packs.
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
    fn(i, one, x + i);
  }
#pragma unroll 4
  for (int64_t k = own; k < packs; k += threads) {
    const X p = *reinterpret_cast<const X*>(x + begin + k * pack);
    for (int j = 0; j < pack; ++j) v[j] = widen(p.v[j]);
    fn(begin + k * pack, v, p.v);
  }
  for (int64_t i = begin + packs * pack + own; i < n; i += threads) {
    one[0] = widen(x[i]);
    fn(i, one, x + i);
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

// All threads of a row get its sum. `kept` takes the row, and lies as x does modulo 16 bytes.
template <bool keeps>
Sum sum_of(const Loss& l, const T* x, T* kept) {
  Sum s{-std::numeric_limits<C>::infinity(), 0, 0};
  [[maybe_unused]] const C share = static_cast<C>(l.share);
  walk(x, l.classes, true, [&]<int count>(int64_t at, const C (&v)[count], const T* raw) {
    if constexpr (keeps && count == pack) *reinterpret_cast<uint4*>(kept + at) = *reinterpret_cast<const uint4*>(raw);
    else if constexpr (keeps) kept[at] = *raw;
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
  } else {
    __syncwarp();
  }
  return s;
}
// NaN where no class is t.
inline C logit_of(const Loss& l, const T* x, int64_t t) {
  return t >= 0 && t < l.classes ? widen(x[t]) : std::numeric_limits<C>::quiet_NaN();
}
inline C loss_of(const Loss& l, const Sum& s, C log_sum, C logit) {
  const C own = log_sum - (logit - s.top);
  if (!FLAME_SMOOTH) return own;
  const C smoothing = static_cast<C>(l.share * static_cast<double>(l.classes));
  return own * static_cast<C>(l.kept) + (log_sum * smoothing - (s.plain - s.top * smoothing));
}
inline void write_gradient(const Loss& l, const T* x, T* dx, int64_t t, C top, C log_sum, C factor) {
  [[maybe_unused]] const C kept = static_cast<C>(l.kept), share = static_cast<C>(l.share);
  [[maybe_unused]] const C n = static_cast<C>(l.classes);
  const bool counts = t != l.ignored;
  const bool alike = (reinterpret_cast<uint64_t>(x) - reinterpret_cast<uint64_t>(dx)) % 16 == 0;
  walk(x, l.classes, alike, [&]<int count>(int64_t at, const C (&v)[count], const T*) {
    Pack<T, count> out;
    const int64_t hit = t - at;  // only one pack of a row has the target
    const bool here = hit >= 0 && hit < count;
    for (int j = 0; j < count; ++j) {
      const C p = exponential(v[j], top, log_sum);
      C d = here && j == hit ? p - 1 : p;
      if (FLAME_SMOOTH) d = d * kept + (p * n - 1) * share;
      out.v[j] = convert<T>(counts ? d * factor : C(0));
    }
    if constexpr (count == pack) *reinterpret_cast<uint4*>(dx + at) = std::bit_cast<uint4>(out);
    else dx[at] = out.v[0];
  });
}

#ifndef FLAME_KEPT
extern "C" __global__ void __launch_bounds__(threads* block_rows)
    forward(const __grid_constant__ Loss l, const T* x, const int64_t* target, C* loss, C* tops, C* log_sums) {
  const int64_t row = own_row();
  if (row >= l.rows) return;  // whole warps
  x += row * l.classes;
  const Sum s = sum_of<false>(l, x, nullptr);
  if (threadIdx.x % threads != 0) return;
  const int64_t t = target[row];
  const C log_sum = vec_log(s.sum);
  loss[row] = t == l.ignored ? C(0) : loss_of(l, s, log_sum, logit_of(l, x, t));
  tops[row] = s.top;
  log_sums[row] = log_sum;
}

extern "C" __global__ void __launch_bounds__(threads* block_rows)
    backward(const __grid_constant__ Loss l, const T* x, const int64_t* target, const C* tops, const C* log_sums,
             const C* factors, int64_t step, T* dx) {
  const int64_t row = own_row();
  if (row >= l.rows) return;
  write_gradient(l, x + row * l.classes, dx + row * l.classes, target[row], tops[row], log_sums[row], factors[row * step]);
}

#else
// Loss and gradient with one factor for all rows; dx may be x. A block has 16 bytes more of shared memory than a row
// has for each of its rows, or reads them again.
extern "C" __global__ void __launch_bounds__(threads* block_rows, 2)
    both(const __grid_constant__ Loss l, const T* x, const int64_t* target, const C* factor, C* loss, T* dx) {
  extern __shared__ uint4 room[];
  const int64_t row = own_row();
  if (row >= l.rows) return;
  x += row * l.classes;
  const int64_t t = target[row];
  const C logit = t == l.ignored ? C(0) : logit_of(l, x, t), times = *factor;  // before it is written over
  const T* again = x;
  Sum s;
  if constexpr (FLAME_KEPT) {
    const int64_t units = (l.classes * static_cast<int64_t>(sizeof(T)) + 15) / 16 + 1;
    T* const kept = reinterpret_cast<T*>(room + threadIdx.x / threads * units) +
                    reinterpret_cast<uint64_t>(x) % 16 / sizeof(T);
    s = sum_of<true>(l, x, kept);
    again = kept;
  } else {
    s = sum_of<false>(l, x, nullptr);
  }
  const C log_sum = vec_log(s.sum);
  if (threadIdx.x % threads == 0) loss[row] = t == l.ignored ? C(0) : loss_of(l, s, log_sum, logit);
  write_gradient(l, again, dx + row * l.classes, t, s.top, log_sum, times);
}
#endif

}  // namespace flame
