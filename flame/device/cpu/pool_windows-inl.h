// Internal: which elements a pooling window holds, and which windows hold an element; once per instruction set.
#if defined(FLAME_POOL_WINDOWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FLAME_POOL_WINDOWS_INL
#undef FLAME_POOL_WINDOWS_INL
#else
#define FLAME_POOL_WINDOWS_INL
#endif

#include <algorithm>
#include <limits>
#include <type_traits>

#include "flame/device/cpu/parallel.h"
#include "flame/device/cpu/pool_kernel.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace flame {
namespace HWY_NAMESPACE {

// Values are compared and summed in float32 or float64.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr int64_t block = 128;        // accumulators held at once
constexpr int64_t piece = 16 * 1024;  // elements worth a thread

// The positions k of an axis for which start + k * step lies in [0, size).
struct Span {
  int64_t begin, end;
};
HWY_INLINE Span inside(int64_t start, int64_t count, int64_t step, int64_t size) {
  const int64_t begin = start < 0 ? (-start + step - 1) / step : 0;
  const int64_t end = start < size ? std::min(count, (size - start + step - 1) / step) : 0;
  return {begin, std::max(begin, end)};
}

// A window along an axis: its positions [begin, end) lie at start + k * dilation, inside.
struct Window {
  int64_t start, begin, end;
};
HWY_INLINE Window window_of(const PoolSizes& p, int axis, int64_t o) {
  const PoolAxis& a = p.axis[axis];
  if (p.adaptive) {
    const int64_t start = o * a.size / a.out;
    return {start, 0, ((o + 1) * a.size + a.out - 1) / a.out - start};
  }
  const int64_t start = o * a.stride - a.padding;
  const Span s = inside(start, a.kernel, a.dilation, a.size);
  return {start, s.begin, s.end};
}
// The outputs of a line whose window position s is inside.
HWY_INLINE Span outputs_at(const PoolAxis& a, int64_t s) {
  return inside(s * a.dilation - a.padding, a.out, a.stride, a.size);
}
// The outputs along an axis whose windows reach over `at`; with dilation not all of them hold it (the index tells).
HWY_INLINE Span outputs_over(const PoolSizes& p, int axis, int64_t at) {
  const PoolAxis& a = p.axis[axis];
  if (p.adaptive) return {at * a.out / a.size, ((at + 1) * a.out + a.size - 1) / a.size};
  // Unsigned 32-bit division is the quick one; windows, strides and padded axes stay below 2^31.
  const int64_t to = at + a.padding, from = to - a.dilation * (a.kernel - 1);
  const uint32_t step = static_cast<uint32_t>(a.stride);
  const int64_t begin = from <= 0 ? 0 : (static_cast<uint32_t>(from) + step - 1) / step;
  return {begin, std::min<int64_t>(static_cast<uint32_t>(to) / step + 1, a.out)};
}

// A line of outputs (backward: of inputs): its plane (channels-last: image), and its place along the first two axes.
struct Line {
  int64_t plane, depth, height;
};
HWY_INLINE Line line_of(const PoolSizes& p, bool backward, int64_t line) {
  const int64_t rows = backward ? p.axis[1].size : p.axis[1].out, layers = backward ? p.axis[0].size : p.axis[0].out;
  return {line / (rows * layers), line / rows % layers, line % rows};
}

// Lines of the output (backward: of the input), shared among the threads.
template <class T, auto channels, auto lines, bool backward>
void run(const PoolSizes& p, const void* in, int32_t* index, void* out) {
  const auto size = [&](int axis) { return backward ? p.axis[axis].size : p.axis[axis].out; };
  const int64_t count = p.images * size(0) * size(1) * (p.channels_last ? 1 : p.channels);
  const int64_t work = std::max<int64_t>(1, size(2) * (p.channels_last ? p.channels : 1));
  const auto fn = p.channels_last ? channels : lines;  // NOLINT(bugprone-branch-clone): some types have one for both
  parallel_for(count, std::max<int64_t>(1, piece / work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fn(p, static_cast<const T*>(in), index, static_cast<T*>(out), i);
  });
}

// Calls add(sums, first output of the line, its place, w0, count) for every line of outputs over the line; writes the
// sums.
template <class T, class Add>
HWY_INLINE void gather_line(const PoolSizes& p, T* dx, int64_t line, const Add& add) {
  using A = Wide<T>;
  const Line at = line_of(p, true, line);
  const int64_t width = p.axis[2].size;
  const Span in = outputs_over(p, 0, at.depth), down = outputs_over(p, 1, at.height);
  for (int64_t w0 = 0; w0 < width; w0 += block) {
    const int64_t count = std::min(block, width - w0);
    A sum[block];
    std::fill_n(sum, count, A{});
    for (int64_t od = in.begin; od < in.end; ++od)
      for (int64_t oh = down.begin; oh < down.end; ++oh)
        add(sum, ((at.plane * p.axis[0].out + od) * p.axis[1].out + oh) * p.axis[2].out, od, oh, w0, count);
    for (int64_t i = 0; i < count; ++i) dx[line * width + w0 + i] = static_cast<T>(sum[i]);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace flame
HWY_AFTER_NAMESPACE();
#endif
