// Average pooling: plain loops over channels (channels-last) or over a line (contiguous), which the compiler vectorises
// for each instruction set. Gradients are gathered, not scattered, so that threads never meet.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/device/cpu/avg_pool_kernel.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include "flame/device/cpu/pool_windows-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {
namespace {

// The elements that an output's window counts along an axis.
HWY_INLINE int64_t counted(const PoolSizes& p, int axis, int64_t o) {
  const PoolAxis& a = p.axis[axis];
  const Window w = window_of(p, axis, o);
  if (p.adaptive || !p.count_padding) return w.end - w.begin;
  return std::min(w.start + a.kernel, a.size + a.padding) - w.start;
}
template <class A>
HWY_INLINE A divisor(const PoolSizes& p, int64_t od, int64_t oh, int64_t ow) {
  return static_cast<A>(p.divisor ? p.divisor : counted(p, 0, od) * counted(p, 1, oh) * counted(p, 2, ow));
}

template <class T>
void average_channels(const PoolSizes& p, const T* x, int32_t*, T* y, int64_t line) {
  using A = Wide<T>;
  const Line l = line_of(p, false, line);
  const PoolAxis &across = p.axis[1], &along = p.axis[2];
  const int64_t c = p.channels;
  const Window deep = window_of(p, 0, l.depth), rows = window_of(p, 1, l.height);
  x += l.plane * p.plane() * c;
  for (int64_t ow = 0; ow < along.out; ++ow) {
    const Window cols = window_of(p, 2, ow);
    const A by = divisor<A>(p, l.depth, l.height, ow);
    for (int64_t c0 = 0; c0 < c; c0 += block) {
      const int64_t count = std::min(block, c - c0);
      A sum[block];
      std::fill_n(sum, count, A{});
      for (int64_t q = deep.begin; q < deep.end; ++q)
        for (int64_t r = rows.begin; r < rows.end; ++r)
          for (int64_t s = cols.begin; s < cols.end; ++s) {
            const int64_t at = ((deep.start + q) * across.size + rows.start + r) * along.size + cols.start + s;
            const T* HWY_RESTRICT from = x + at * c + c0;
            for (int64_t i = 0; i < count; ++i) sum[i] += static_cast<A>(from[i]);
          }
      for (int64_t i = 0; i < count; ++i) y[(line * along.out + ow) * c + c0 + i] = static_cast<T>(sum[i] / by);
    }
  }
}

// sum[i] += x[i * step].
template <class A, class T>
HWY_INLINE void add_strided(A* HWY_RESTRICT sum, const T* HWY_RESTRICT x, int64_t step, int64_t n) {
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) sum[i] += static_cast<A>(x[i]);
  } else if (step == 2) {  // a constant, which the compiler turns into shuffles
    for (int64_t i = 0; i < n; ++i) sum[i] += static_cast<A>(x[2 * i]);
  } else {
    for (int64_t i = 0; i < n; ++i) sum[i] += static_cast<A>(x[i * step]);
  }
}

template <class T>
void average_line(const PoolSizes& p, const T* x, int32_t*, T* y, int64_t line) {
  using A = Wide<T>;
  const Line l = line_of(p, false, line);
  const PoolAxis &across = p.axis[1], &along = p.axis[2];
  const Window deep = window_of(p, 0, l.depth), rows = window_of(p, 1, l.height);
  x += l.plane * p.plane();
  for (int64_t o0 = 0; o0 < along.out; o0 += block) {
    const int64_t count = std::min(block, along.out - o0);
    A sum[block];
    std::fill_n(sum, count, A{});
    for (int64_t q = deep.begin; q < deep.end; ++q)
      for (int64_t r = rows.begin; r < rows.end; ++r) {
        const T* row = x + ((deep.start + q) * across.size + rows.start + r) * along.size - along.padding;
        for (int64_t s = 0; s < along.kernel; ++s) {
          const Span out = outputs_at(along, s);
          const int64_t ow = std::max(out.begin, o0);
          add_strided(sum + (ow - o0), row + s + ow * along.stride, along.stride, std::min(out.end, o0 + count) - ow);
        }
      }
    T* out = y + line * along.out + o0;
    const int64_t last = o0 + count - 1;
    const A by = divisor<A>(p, l.depth, l.height, o0);
    // Windows are cut at the ends of the line alone.
    if (p.divisor || (!p.adaptive && counted(p, 2, o0) == along.kernel && counted(p, 2, last) == along.kernel))
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(sum[i] / by);
    else
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(sum[i] / divisor<A>(p, l.depth, l.height, o0 + i));
  }
}

template <class T>
void average_backward_channels(const PoolSizes& p, const T* dy, const int32_t*, T* dx, int64_t line) {
  using A = Wide<T>;
  const Line l = line_of(p, true, line);
  const PoolAxis &across = p.axis[1], &along = p.axis[2];
  const int64_t c = p.channels;
  const Span in = outputs_over(p, 0, l.depth), down = outputs_over(p, 1, l.height);
  dy += l.plane * p.out_plane() * c;
  for (int64_t w = 0; w < along.size; ++w) {
    const Span right = outputs_over(p, 2, w);
    for (int64_t c0 = 0; c0 < c; c0 += block) {
      const int64_t count = std::min(block, c - c0);
      A sum[block];
      std::fill_n(sum, count, A{});
      for (int64_t od = in.begin; od < in.end; ++od)
        for (int64_t oh = down.begin; oh < down.end; ++oh)
          for (int64_t ow = right.begin; ow < right.end; ++ow) {
            const T* HWY_RESTRICT g = dy + ((od * across.out + oh) * along.out + ow) * c + c0;
            const A by = divisor<A>(p, od, oh, ow);
            for (int64_t i = 0; i < count; ++i) sum[i] += static_cast<A>(g[i]) / by;
          }
      for (int64_t i = 0; i < count; ++i) dx[(line * along.size + w) * c + c0 + i] = static_cast<T>(sum[i]);
    }
  }
}

template <class T>
void average_backward_line(const PoolSizes& p, const T* dy, const int32_t*, T* dx, int64_t line) {
  using A = Wide<T>;
  const PoolAxis& along = p.axis[2];
  gather_line(p, dx, line, [&](A* sum, int64_t out, int64_t od, int64_t oh, int64_t w0, int64_t count) HWY_ATTR {
    for (int64_t ow = 0; ow < along.out; ++ow) {
      const int64_t start = ow * along.stride - along.padding;
      const A g = static_cast<A>(dy[out + ow]) / divisor<A>(p, od, oh, ow);
      for (int64_t w = std::max(start, w0); w < std::min(start + along.kernel, w0 + count); ++w) sum[w - w0] += g;
    }
  });
}

template <class T>
PoolFn typed(PoolPass pass) {
  if (pass == PoolPass::average) return run<T, average_channels<T>, average_line<T>, false>;
  return run<T, average_backward_channels<T>, average_backward_line<T>, true>;
}

PoolFn kernel(PoolPass pass, DType t) {
  if (t == DType::f64) return typed<double>(pass);
  if (t == DType::f16) return typed<float16>(pass);
  return t == DType::bf16 ? typed<bfloat16>(pass) : typed<float>(pass);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame {

HWY_EXPORT(kernel);
PoolFn avg_pool_kernel(PoolPass pass, DType t) { return HWY_DYNAMIC_DISPATCH(kernel)(pass, t); }

}  // namespace flame
#endif
