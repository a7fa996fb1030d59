// Pooling: plain loops over channels (channels-last) or over a line (contiguous), which the compiler vectorises for each
// instruction set. Gradients are gathered, not scattered, so that threads never meet.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/device/cpu/pool_kernel.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include <algorithm>
#include <limits>
#include <type_traits>

#include "flame/device/cpu/parallel.h"
#include "flame/device/cpu/pool_kernel.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Values are compared and summed in float32 or float64.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr int64_t block = 128;        // accumulators held at once
constexpr int64_t piece = 16 * 1024;  // elements worth a thread

// The window positions k of an axis for which start + k * dilation lies in [0, size).
struct Span {
  int64_t begin, end;
};
HWY_INLINE Span inside(int64_t start, int64_t kernel, int64_t dilation, int64_t size) {
  const int64_t begin = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const int64_t end = start < size ? std::min(kernel, (size - start + dilation - 1) / dilation) : 0;
  return {begin, std::max(begin, end)};
}
// The outputs of a line whose window position s is inside: 0 <= ow * stride + s * dilation - padding < width.
HWY_INLINE Span outputs_at(const PoolSizes& p, int64_t s) {
  return inside(s * p.dilation[1] - p.padding[1], p.out_width, p.stride[1], p.width);
}
// The outputs along `axis` whose windows reach over `at`; with dilation not all of them hold it (the index tells).
HWY_INLINE Span outputs_over(const PoolSizes& p, int axis, int64_t at) {
  const int32_t to = static_cast<int32_t>(at + p.padding[axis]), step = static_cast<int32_t>(p.stride[axis]);
  const int32_t from = to - static_cast<int32_t>(p.dilation[axis] * (p.kernel[axis] - 1));
  const int64_t begin = from <= 0 ? 0 : (from + step - 1) / step;
  return {begin, std::min<int64_t>(to / step + 1, axis == 0 ? p.out_height : p.out_width)};
}
template <class A>
HWY_INLINE A divisor(const PoolSizes& p, int64_t oh, int64_t ow) {
  const int64_t out[2] = {oh, ow}, size[2] = {p.height, p.width};
  int64_t count = 1;
  for (int i = 0; i < 2; ++i) {
    const int64_t start = out[i] * p.stride[i] - p.padding[i],
                  end = std::min(start + p.kernel[i], size[i] + p.padding[i]);
    count *= p.count_padding ? end - start : std::min(end, size[i]) - std::max<int64_t>(start, 0);
  }
  return static_cast<A>(count);
}

// Strict, so that the first of equal values stays; a NaN beats all but an earlier one.
template <class T, class A>
HWY_INLINE void keep_larger(const T* HWY_RESTRICT x, int64_t step, int32_t at, int32_t at_step, A* HWY_RESTRICT best,
                            int32_t* HWY_RESTRICT where, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const A v = static_cast<A>(x[i * step]), b = best[i];
    const bool take = (where[i] < 0) | (!(v <= b) & (b == b));  // NOLINT(misc-redundant-expression): b is no NaN
    best[i] = take ? v : b;
    where[i] = take ? at + static_cast<int32_t>(i) * at_step : where[i];
  }
}

// The same for whole vectors of channels, kept in registers over the window. `x` and `out` are at the first of them.
template <int vectors>
HWY_INLINE void max_vectors(const PoolSizes& p, const float* x, Span rows, Span cols, int64_t h0, int64_t w0, float* y,
                            int32_t* index) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  constexpr int lanes = static_cast<int>(hn::MaxLanes(d));
  hn::Vec<decltype(d)> best[vectors];
  hn::Vec<decltype(di)> where[vectors];
  for (int v = 0; v < vectors; ++v) {
    best[v] = hn::Set(d, -std::numeric_limits<float>::infinity());
    where[v] = hn::Set(di, -1);
  }
  for (int64_t r = rows.begin; r < rows.end; ++r)
    for (int64_t s = cols.begin; s < cols.end; ++s) {
      const bool first = r == rows.begin && s == cols.begin;
      const int64_t at = (h0 + r * p.dilation[0]) * p.width + w0 + s * p.dilation[1];
      const auto place = hn::Set(di, static_cast<int32_t>(at));
      for (int v = 0; v < vectors; ++v) {
        const auto value = hn::LoadU(d, x + at * p.channels + v * lanes);
        const auto keep = hn::Or(hn::Le(value, best[v]), hn::IsNaN(best[v]));
        best[v] = first ? value : hn::IfThenElse(keep, best[v], value);
        where[v] = first ? place : hn::IfThenElse(hn::RebindMask(di, keep), where[v], place);
      }
    }
  for (int v = 0; v < vectors; ++v) {
    hn::StoreU(best[v], d, y + v * lanes);
    hn::StoreU(where[v], di, index + v * lanes);
  }
}
// Takes as many channels as fill vectors; returns how many.
HWY_INLINE int64_t max_whole_vectors(const PoolSizes& p, const float* x, Span rows, Span cols, int64_t h0, int64_t w0,
                                     float* y, int32_t* index) {
  constexpr int64_t lanes = static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<float>()));
  int64_t c = 0;
  for (; c + 2 * lanes <= p.channels; c += 2 * lanes) max_vectors<2>(p, x + c, rows, cols, h0, w0, y + c, index + c);
  for (; c + lanes <= p.channels; c += lanes) max_vectors<1>(p, x + c, rows, cols, h0, w0, y + c, index + c);
  return c;
}

template <class T>
void max_channels(const PoolSizes& p, const T* x, int32_t* index, T* y, int64_t line) {
  using A = Wide<T>;
  const int64_t n = line / p.out_height, h0 = line % p.out_height * p.stride[0] - p.padding[0], c = p.channels;
  const Span rows = inside(h0, p.kernel[0], p.dilation[0], p.height);
  for (int64_t ow = 0; ow < p.out_width; ++ow) {
    const int64_t w0 = ow * p.stride[1] - p.padding[1], out = (line * p.out_width + ow) * c;
    const Span cols = inside(w0, p.kernel[1], p.dilation[1], p.width);
    int64_t c0 = 0;
    if constexpr (std::is_same_v<T, float>)
      c0 = max_whole_vectors(p, x + n * p.height * p.width * c, rows, cols, h0, w0, y + out, index + out);
    for (; c0 < c; c0 += block) {
      const int64_t count = std::min(block, c - c0);
      A best[block];
      int32_t where[block];
      std::fill_n(best, count, -std::numeric_limits<A>::infinity());
      std::fill_n(where, count, -1);
      for (int64_t r = rows.begin; r < rows.end; ++r)
        for (int64_t s = cols.begin; s < cols.end; ++s) {
          const int64_t at = (h0 + r * p.dilation[0]) * p.width + w0 + s * p.dilation[1];
          keep_larger(x + (n * p.height * p.width + at) * c + c0, 1, static_cast<int32_t>(at), 0, best, where, count);
        }
      for (int64_t i = 0; i < count; ++i) y[out + c0 + i] = static_cast<T>(best[i]);
      std::copy_n(where, count, index + out + c0);
    }
  }
}

template <class T>
void max_line(const PoolSizes& p, const T* x, int32_t* index, T* y, int64_t line) {
  using A = Wide<T>;
  const int64_t h0 = line % p.out_height * p.stride[0] - p.padding[0];
  x += line / p.out_height * p.height * p.width;
  const Span rows = inside(h0, p.kernel[0], p.dilation[0], p.height);
  for (int64_t o0 = 0; o0 < p.out_width; o0 += block) {
    const int64_t count = std::min(block, p.out_width - o0);
    A best[block];
    int32_t where[block];
    std::fill_n(best, count, -std::numeric_limits<A>::infinity());
    std::fill_n(where, count, -1);
    for (int64_t r = rows.begin; r < rows.end; ++r)
      for (int64_t s = 0; s < p.kernel[1]; ++s) {
        const Span out = outputs_at(p, s);
        const int64_t first = std::max(out.begin, o0), last = std::min(out.end, o0 + count);
        const int64_t at = (h0 + r * p.dilation[0]) * p.width + first * p.stride[1] + s * p.dilation[1] - p.padding[1];
        if (first < last)
          keep_larger(x + at, p.stride[1], static_cast<int32_t>(at), static_cast<int32_t>(p.stride[1]),
                      best + first - o0, where + first - o0, last - first);
      }
    for (int64_t i = 0; i < count; ++i) y[line * p.out_width + o0 + i] = static_cast<T>(best[i]);
    std::copy_n(where, count, index + line * p.out_width + o0);
  }
}

// For whole vectors of channels: the gradients of the windows that `here` won. `from` is the image's first output.
template <int vectors>
HWY_INLINE void max_backward_vectors(const PoolSizes& p, const float* dy, const int32_t* index, int64_t from, Span down,
                                     Span right, int32_t here, float* dx) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  constexpr int lanes = static_cast<int>(hn::MaxLanes(d));
  const auto place = hn::Set(di, here);
  hn::Vec<decltype(d)> sum[vectors];
  for (int v = 0; v < vectors; ++v) sum[v] = hn::Zero(d);
  for (int64_t oh = down.begin; oh < down.end; ++oh)
    for (int64_t ow = right.begin; ow < right.end; ++ow) {
      const int64_t at = from + (oh * p.out_width + ow) * p.channels;
      for (int v = 0; v < vectors; ++v) {
        const auto won = hn::RebindMask(d, hn::Eq(hn::LoadU(di, index + at + v * lanes), place));
        sum[v] = hn::Add(sum[v], hn::IfThenElseZero(won, hn::LoadU(d, dy + at + v * lanes)));
      }
    }
  for (int v = 0; v < vectors; ++v) hn::StoreU(sum[v], d, dx + v * lanes);
}
HWY_INLINE int64_t max_backward_whole_vectors(const PoolSizes& p, const float* dy, const int32_t* index, int64_t from,
                                              Span down, Span right, int32_t here, float* dx) {
  constexpr int64_t lanes = static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<float>()));
  int64_t c = 0;
  for (; c + 2 * lanes <= p.channels; c += 2 * lanes)
    max_backward_vectors<2>(p, dy, index, from + c, down, right, here, dx + c);
  for (; c + lanes <= p.channels; c += lanes)
    max_backward_vectors<1>(p, dy, index, from + c, down, right, here, dx + c);
  return c;
}

template <class T>
void max_backward_channels(const PoolSizes& p, const T* dy, const int32_t* index, T* dx, int64_t line) {
  using A = Wide<T>;
  const int64_t n = line / p.height, h = line % p.height, c = p.channels;
  const Span down = outputs_over(p, 0, h);
  for (int64_t w = 0; w < p.width; ++w) {
    const Span right = outputs_over(p, 1, w);
    const int32_t here = static_cast<int32_t>(h * p.width + w);
    int64_t c0 = 0;
    if constexpr (std::is_same_v<T, float>)
      c0 = max_backward_whole_vectors(p, dy, index, n * p.out_height * p.out_width * c, down, right, here,
                                      dx + (line * p.width + w) * c);
    for (; c0 < c; c0 += block) {
      const int64_t count = std::min(block, c - c0);
      A sum[block];
      std::fill_n(sum, count, A{});
      for (int64_t oh = down.begin; oh < down.end; ++oh)
        for (int64_t ow = right.begin; ow < right.end; ++ow) {
          const int64_t from = ((n * p.out_height + oh) * p.out_width + ow) * c + c0;
          const T* HWY_RESTRICT g = dy + from;
          const int32_t* HWY_RESTRICT k = index + from;
          for (int64_t i = 0; i < count; ++i) sum[i] += k[i] == here ? static_cast<A>(g[i]) : A{};
        }
      T* out = dx + (line * p.width + w) * c + c0;
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(sum[i]);
    }
  }
}

// Calls add(sums, first output of the line, its row, w0, count) for every line of outputs over line h; writes the sums.
template <class T, class Add>
HWY_INLINE void gather_line(const PoolSizes& p, T* dx, int64_t line, const Add& add) {
  using A = Wide<T>;
  const int64_t plane = line / p.height, h = line % p.height;
  for (int64_t w0 = 0; w0 < p.width; w0 += block) {
    const int64_t count = std::min(block, p.width - w0);
    A sum[block];
    std::fill_n(sum, count, A{});
    const Span down = outputs_over(p, 0, h);
    for (int64_t oh = down.begin; oh < down.end; ++oh)
      add(sum, (plane * p.out_height + oh) * p.out_width, oh, w0, count);
    for (int64_t i = 0; i < count; ++i) dx[line * p.width + w0 + i] = static_cast<T>(sum[i]);
  }
}

template <class T>
void max_backward_line(const PoolSizes& p, const T* dy, const int32_t* index, T* dx, int64_t line) {
  using A = Wide<T>;
  const int64_t start = line % p.height * p.width;
  gather_line(p, dx, line, [&](A* sum, int64_t out, int64_t, int64_t w0, int64_t count) HWY_ATTR {
    for (int64_t ow = 0; ow < p.out_width; ++ow) {
      const int64_t at = index[out + ow] - start - w0;
      if (at >= 0 && at < count) sum[at] += static_cast<A>(dy[out + ow]);
    }
  });
}

// Wide types add up in place: a plane at a time, in the order of the outputs.
template <class T>
void max_backward_planes(const PoolSizes& p, const void* in, int32_t* index, void* out) {
  const int64_t plane = p.height * p.width, windows = p.out_height * p.out_width;
  parallel_for(p.images * p.channels, std::max<int64_t>(1, piece / std::max<int64_t>(1, plane)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const T* g = static_cast<const T*>(in) + i * windows;
                   const int32_t* k = index + i * windows;
                   T* dx = static_cast<T*>(out) + i * plane;
                   std::fill_n(dx, plane, T{});
                   for (int64_t o = 0; o < windows; ++o)
                     if (k[o] >= 0) dx[k[o]] += g[o];
                 }
               });
}

template <class T>
void max_gather(const PoolSizes& p, const T* x, const int32_t* index, T* y, int64_t line) {
  const int64_t plane = p.height * p.width;
  if (p.channels_last) {
    x += line / p.out_height * plane * p.channels;
    for (int64_t i = line * p.out_width * p.channels; i < (line + 1) * p.out_width * p.channels; ++i)
      y[i] = index[i] < 0 ? T{} : x[index[i] * p.channels + i % p.channels];
  } else {
    x += line / p.out_height * plane;
    for (int64_t i = line * p.out_width; i < (line + 1) * p.out_width; ++i) y[i] = index[i] < 0 ? T{} : x[index[i]];
  }
}

template <class T>
void average_channels(const PoolSizes& p, const T* x, int32_t*, T* y, int64_t line) {
  using A = Wide<T>;
  const int64_t n = line / p.out_height, oh = line % p.out_height, h0 = oh * p.stride[0] - p.padding[0], c = p.channels;
  const Span rows = inside(h0, p.kernel[0], 1, p.height);
  for (int64_t ow = 0; ow < p.out_width; ++ow) {
    const int64_t w0 = ow * p.stride[1] - p.padding[1];
    const Span cols = inside(w0, p.kernel[1], 1, p.width);
    const A by = divisor<A>(p, oh, ow);
    for (int64_t c0 = 0; c0 < c; c0 += block) {
      const int64_t count = std::min(block, c - c0);
      A sum[block];
      std::fill_n(sum, count, A{});
      for (int64_t r = rows.begin; r < rows.end; ++r)
        for (int64_t s = cols.begin; s < cols.end; ++s) {
          const T* HWY_RESTRICT from = x + ((n * p.height + h0 + r) * p.width + w0 + s) * c + c0;
          for (int64_t i = 0; i < count; ++i) sum[i] += static_cast<A>(from[i]);
        }
      for (int64_t i = 0; i < count; ++i) y[(line * p.out_width + ow) * c + c0 + i] = static_cast<T>(sum[i] / by);
    }
  }
}

template <class T>
void average_line(const PoolSizes& p, const T* x, int32_t*, T* y, int64_t line) {
  using A = Wide<T>;
  const int64_t oh = line % p.out_height, h0 = oh * p.stride[0] - p.padding[0];
  x += line / p.out_height * p.height * p.width;
  const Span rows = inside(h0, p.kernel[0], 1, p.height);
  for (int64_t o0 = 0; o0 < p.out_width; o0 += block) {
    const int64_t count = std::min(block, p.out_width - o0);
    A sum[block];
    std::fill_n(sum, count, A{});
    for (int64_t r = rows.begin; r < rows.end; ++r)
      for (int64_t s = 0; s < p.kernel[1]; ++s) {
        const Span out = outputs_at(p, s);
        const T* from = x + (h0 + r) * p.width + s - p.padding[1];
        for (int64_t ow = std::max(out.begin, o0); ow < std::min(out.end, o0 + count); ++ow)
          sum[ow - o0] += static_cast<A>(from[ow * p.stride[1]]);
      }
    for (int64_t i = 0; i < count; ++i)
      y[line * p.out_width + o0 + i] = static_cast<T>(sum[i] / divisor<A>(p, oh, o0 + i));
  }
}

template <class T>
void average_backward_channels(const PoolSizes& p, const T* dy, const int32_t*, T* dx, int64_t line) {
  using A = Wide<T>;
  const int64_t n = line / p.height, h = line % p.height, c = p.channels;
  const Span down = outputs_over(p, 0, h);
  for (int64_t w = 0; w < p.width; ++w) {
    const Span right = outputs_over(p, 1, w);
    for (int64_t c0 = 0; c0 < c; c0 += block) {
      const int64_t count = std::min(block, c - c0);
      A sum[block];
      std::fill_n(sum, count, A{});
      for (int64_t oh = down.begin; oh < down.end; ++oh)
        for (int64_t ow = right.begin; ow < right.end; ++ow) {
          const T* HWY_RESTRICT g = dy + ((n * p.out_height + oh) * p.out_width + ow) * c + c0;
          const A by = divisor<A>(p, oh, ow);
          for (int64_t i = 0; i < count; ++i) sum[i] += static_cast<A>(g[i]) / by;
        }
      for (int64_t i = 0; i < count; ++i) dx[(line * p.width + w) * c + c0 + i] = static_cast<T>(sum[i]);
    }
  }
}

template <class T>
void average_backward_line(const PoolSizes& p, const T* dy, const int32_t*, T* dx, int64_t line) {
  using A = Wide<T>;
  gather_line(p, dx, line, [&](A* sum, int64_t out, int64_t oh, int64_t w0, int64_t count) HWY_ATTR {
    for (int64_t ow = 0; ow < p.out_width; ++ow) {
      const int64_t start = ow * p.stride[1] - p.padding[1];
      const A g = static_cast<A>(dy[out + ow]) / divisor<A>(p, oh, ow);
      for (int64_t w = std::max(start, w0); w < std::min(start + p.kernel[1], w0 + count); ++w) sum[w - w0] += g;
    }
  });
}

// Lines of the output (backward: of the input), shared among the threads.
template <class T, auto channels, auto lines, bool backward>
void run(const PoolSizes& p, const void* in, int32_t* index, void* out) {
  const int64_t height = backward ? p.height : p.out_height, width = backward ? p.width : p.out_width;
  const int64_t count = p.images * height * (p.channels_last ? 1 : p.channels);
  const int64_t work = std::max<int64_t>(1, width * (p.channels_last ? p.channels : 1));
  const auto fn = p.channels_last ? channels : lines;  // NOLINT(bugprone-branch-clone): some types have one for both
  parallel_for(count, std::max<int64_t>(1, piece / work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fn(p, static_cast<const T*>(in), index, static_cast<T*>(out), i);
  });
}

template <class T>
void max_backward(const PoolSizes& p, const void* in, int32_t* index, void* out) {
  if constexpr (std::is_same_v<T, Wide<T>>)
    if (!p.channels_last) return max_backward_planes<T>(p, in, index, out);
  run<T, max_backward_channels<T>, max_backward_line<T>, true>(p, in, index, out);
}

template <class T>
PoolFn typed(PoolPass pass) {
  switch (pass) {
    case PoolPass::max: return run<T, max_channels<T>, max_line<T>, false>;
    case PoolPass::max_backward: return max_backward<T>;
    case PoolPass::max_gather: return run<T, max_gather<T>, max_gather<T>, false>;
    case PoolPass::average: return run<T, average_channels<T>, average_line<T>, false>;
    case PoolPass::average_backward: break;
  }
  return run<T, average_backward_channels<T>, average_backward_line<T>, true>;
}

PoolFn kernel(PoolPass pass, DType t) {
  if (t == DType::f64) return typed<double>(pass);
  if (t == DType::f16) return typed<float16>(pass);
  return t == DType::bf16 ? typed<bfloat16>(pass) : typed<float>(pass);
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace flame {

HWY_EXPORT(kernel);
PoolFn pool_kernel(PoolPass pass, DType t) { return HWY_DYNAMIC_DISPATCH(kernel)(pass, t); }

}  // namespace flame
#endif
