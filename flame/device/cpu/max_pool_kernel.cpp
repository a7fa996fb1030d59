// Max pooling: plain loops over channels (channels-last) or over a line (contiguous), which the compiler vectorises for
// each instruction set. Gradients are gathered, not scattered, so that threads never meet.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "flame/device/cpu/max_pool_kernel.cpp"
#include "hwy/foreach_target.h"
// foreach_target.h comes first
#include "flame/device/cpu/pool_windows-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

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

// Calls fn(place in the plane) for the elements of a window, in row-major order.
template <class Fn>
HWY_INLINE void each_place(const PoolSizes& p, const Window (&w)[3], const Fn& fn) {
  for (int64_t q = w[0].begin; q < w[0].end; ++q) {
    const int64_t d = w[0].start + q * p.axis[0].dilation;
    for (int64_t r = w[1].begin; r < w[1].end; ++r) {
      const int64_t row = (d * p.axis[1].size + w[1].start + r * p.axis[1].dilation) * p.axis[2].size;
      for (int64_t s = w[2].begin; s < w[2].end; ++s) fn(row + w[2].start + s * p.axis[2].dilation);
    }
  }
}

// The same for whole vectors of channels, kept in registers over the window. `x` and `out` are at the first of them.
template <int vectors>
HWY_INLINE void max_vectors(const PoolSizes& p, const float* x, const Window (&w)[3], float* y, int32_t* index) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  constexpr int lanes = static_cast<int>(hn::MaxLanes(d));
  hn::Vec<decltype(d)> best[vectors];
  hn::Vec<decltype(di)> where[vectors];
  for (int v = 0; v < vectors; ++v) {
    best[v] = hn::Set(d, -std::numeric_limits<float>::infinity());
    where[v] = hn::Set(di, -1);
  }
  bool first = true;
  each_place(p, w, [&](int64_t at) HWY_ATTR {
    const auto place = hn::Set(di, static_cast<int32_t>(at));
    for (int v = 0; v < vectors; ++v) {
      const auto value = hn::LoadU(d, x + at * p.channels + v * lanes);
      const auto keep = hn::Or(hn::Le(value, best[v]), hn::IsNaN(best[v]));
      best[v] = first ? value : hn::IfThenElse(keep, best[v], value);
      where[v] = first ? place : hn::IfThenElse(hn::RebindMask(di, keep), where[v], place);
    }
    first = false;
  });
  for (int v = 0; v < vectors; ++v) {
    hn::StoreU(best[v], d, y + v * lanes);
    hn::StoreU(where[v], di, index + v * lanes);
  }
}
// Takes as many channels as fill vectors; returns how many.
HWY_INLINE int64_t max_whole_vectors(const PoolSizes& p, const float* x, const Window (&w)[3], float* y,
                                     int32_t* index) {
  constexpr int64_t lanes = static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<float>()));
  int64_t c = 0;
  for (; c + 2 * lanes <= p.channels; c += 2 * lanes) max_vectors<2>(p, x + c, w, y + c, index + c);
  for (; c + lanes <= p.channels; c += lanes) max_vectors<1>(p, x + c, w, y + c, index + c);
  return c;
}

template <class T>
void max_channels(const PoolSizes& p, const T* x, int32_t* index, T* y, int64_t line) {
  using A = Wide<T>;
  const Line l = line_of(p, false, line);
  const int64_t c = p.channels;
  Window w[3] = {window_of(p, 0, l.depth), window_of(p, 1, l.height), {}};
  x += l.plane * p.plane() * c;
  for (int64_t ow = 0; ow < p.axis[2].out; ++ow) {
    w[2] = window_of(p, 2, ow);
    const int64_t out = (line * p.axis[2].out + ow) * c;
    int64_t c0 = 0;
    if constexpr (std::is_same_v<T, float>) c0 = max_whole_vectors(p, x, w, y + out, index + out);
    for (; c0 < c; c0 += block) {
      const int64_t count = std::min(block, c - c0);
      A best[block];
      int32_t where[block];
      std::fill_n(best, count, -std::numeric_limits<A>::infinity());
      std::fill_n(where, count, -1);
      each_place(p, w, [&](int64_t at) HWY_ATTR {
        keep_larger(x + at * c + c0, 1, static_cast<int32_t>(at), 0, best, where, count);
      });
      for (int64_t i = 0; i < count; ++i) y[out + c0 + i] = static_cast<T>(best[i]);
      std::copy_n(where, count, index + out + c0);
    }
  }
}

template <class T>
void max_line(const PoolSizes& p, const T* x, int32_t* index, T* y, int64_t line) {
  using A = Wide<T>;
  const Line l = line_of(p, false, line);
  const PoolAxis &across = p.axis[1], &along = p.axis[2];
  const Window deep = window_of(p, 0, l.depth), rows = window_of(p, 1, l.height);
  x += l.plane * p.plane();
  for (int64_t o0 = 0; o0 < along.out; o0 += block) {
    const int64_t count = std::min(block, along.out - o0);
    A best[block];
    int32_t where[block];
    std::fill_n(best, count, -std::numeric_limits<A>::infinity());
    std::fill_n(where, count, -1);
    for (int64_t q = deep.begin; q < deep.end; ++q)
      for (int64_t r = rows.begin; r < rows.end; ++r) {
        const int64_t row =
            ((deep.start + q * p.axis[0].dilation) * across.size + rows.start + r * across.dilation) * along.size;
        for (int64_t s = 0; s < along.kernel; ++s) {
          const Span out = outputs_at(along, s);
          const int64_t first = std::max(out.begin, o0), last = std::min(out.end, o0 + count);
          const int64_t at = row + first * along.stride + s * along.dilation - along.padding;
          if (first < last)
            keep_larger(x + at, along.stride, static_cast<int32_t>(at), static_cast<int32_t>(along.stride),
                        best + first - o0, where + first - o0, last - first);
        }
      }
    for (int64_t i = 0; i < count; ++i) y[line * along.out + o0 + i] = static_cast<T>(best[i]);
    std::copy_n(where, count, index + line * along.out + o0);
  }
}

// Calls fn(output) for the outputs whose windows reach over an element, in order.
template <class Fn>
HWY_INLINE void each_output(const PoolSizes& p, const Span (&over)[3], const Fn& fn) {
  for (int64_t od = over[0].begin; od < over[0].end; ++od)
    for (int64_t oh = over[1].begin; oh < over[1].end; ++oh) {
      const int64_t row = (od * p.axis[1].out + oh) * p.axis[2].out;
      for (int64_t ow = over[2].begin; ow < over[2].end; ++ow) fn(row + ow);
    }
}

// For whole vectors of channels: the gradients of the windows that `here` won. dy and index are at the image's first.
template <int vectors>
HWY_INLINE void max_backward_vectors(const PoolSizes& p, const float* dy, const int32_t* index, const Span (&over)[3],
                                     int32_t here, float* dx) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  constexpr int lanes = static_cast<int>(hn::MaxLanes(d));
  const auto place = hn::Set(di, here);
  hn::Vec<decltype(d)> sum[vectors];
  for (int v = 0; v < vectors; ++v) sum[v] = hn::Zero(d);
  each_output(p, over, [&](int64_t o) HWY_ATTR {
    const int64_t at = o * p.channels;
    for (int v = 0; v < vectors; ++v) {
      const auto won = hn::RebindMask(d, hn::Eq(hn::LoadU(di, index + at + v * lanes), place));
      sum[v] = hn::Add(sum[v], hn::IfThenElseZero(won, hn::LoadU(d, dy + at + v * lanes)));
    }
  });
  for (int v = 0; v < vectors; ++v) hn::StoreU(sum[v], d, dx + v * lanes);
}
HWY_INLINE int64_t max_backward_whole_vectors(const PoolSizes& p, const float* dy, const int32_t* index,
                                              const Span (&over)[3], int32_t here, float* dx) {
  constexpr int64_t lanes = static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<float>()));
  int64_t c = 0;
  for (; c + 2 * lanes <= p.channels; c += 2 * lanes) max_backward_vectors<2>(p, dy + c, index + c, over, here, dx + c);
  for (; c + lanes <= p.channels; c += lanes) max_backward_vectors<1>(p, dy + c, index + c, over, here, dx + c);
  return c;
}

template <class T>
void max_backward_channels(const PoolSizes& p, const T* dy, const int32_t* index, T* dx, int64_t line) {
  using A = Wide<T>;
  const Line l = line_of(p, true, line);
  const int64_t c = p.channels, width = p.axis[2].size;
  Span over[3] = {outputs_over(p, 0, l.depth), outputs_over(p, 1, l.height), {}};
  dy += l.plane * p.out_plane() * c;
  index += l.plane * p.out_plane() * c;
  for (int64_t w = 0; w < width; ++w) {
    over[2] = outputs_over(p, 2, w);
    const int32_t here = static_cast<int32_t>((l.depth * p.axis[1].size + l.height) * width + w);
    T* out = dx + (line * width + w) * c;
    int64_t c0 = 0;
    if constexpr (std::is_same_v<T, float>) c0 = max_backward_whole_vectors(p, dy, index, over, here, out);
    for (; c0 < c; c0 += block) {
      const int64_t count = std::min(block, c - c0);
      A sum[block];
      std::fill_n(sum, count, A{});
      each_output(p, over, [&](int64_t o) HWY_ATTR {
        const T* HWY_RESTRICT g = dy + o * c + c0;
        const int32_t* HWY_RESTRICT k = index + o * c + c0;
        for (int64_t i = 0; i < count; ++i) sum[i] += k[i] == here ? static_cast<A>(g[i]) : A{};
      });
      for (int64_t i = 0; i < count; ++i) out[c0 + i] = static_cast<T>(sum[i]);
    }
  }
}

template <class T>
void max_backward_line(const PoolSizes& p, const T* dy, const int32_t* index, T* dx, int64_t line) {
  using A = Wide<T>;
  const int64_t start = line % (p.axis[0].size * p.axis[1].size) * p.axis[2].size;
  gather_line(p, dx, line, [&](A* sum, int64_t out, int64_t, int64_t, int64_t w0, int64_t count) HWY_ATTR {
    for (int64_t ow = 0; ow < p.axis[2].out; ++ow) {
      const int64_t at = index[out + ow] - start - w0;
      if (at >= 0 && at < count) sum[at] += static_cast<A>(dy[out + ow]);
    }
  });
}

// Wide types add up in place: a plane at a time, in the order of the outputs.
template <class T>
void max_backward_planes(const PoolSizes& p, const void* in, int32_t* index, void* out) {
  const int64_t plane = p.plane(), windows = p.out_plane();
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
  const int64_t lines = p.axis[0].out * p.axis[1].out, width = p.axis[2].out;
  x += line / lines * p.plane() * (p.channels_last ? p.channels : 1);
  if (p.channels_last) {
    for (int64_t i = line * width * p.channels; i < (line + 1) * width * p.channels; ++i)
      y[i] = index[i] < 0 ? T{} : x[index[i] * p.channels + i % p.channels];
  } else {
    for (int64_t i = line * width; i < (line + 1) * width; ++i) y[i] = index[i] < 0 ? T{} : x[index[i]];
  }
}

template <class T>
void max_backward(const PoolSizes& p, const void* in, int32_t* index, void* out) {
  if constexpr (std::is_same_v<T, Wide<T>>)
    if (!p.channels_last) return max_backward_planes<T>(p, in, index, out);
  run<T, max_backward_channels<T>, max_backward_line<T>, true>(p, in, index, out);
}

template <class T>
PoolFn typed(PoolPass pass) {
  if (pass == PoolPass::max) return run<T, max_channels<T>, max_line<T>, false>;
  return pass == PoolPass::max_backward ? max_backward<T> : run<T, max_gather<T>, max_gather<T>, false>;
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
PoolFn max_pool_kernel(PoolPass pass, DType t) { return HWY_DYNAMIC_DISPATCH(kernel)(pass, t); }

}  // namespace flame
#endif
