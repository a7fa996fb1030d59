// Internal: the sizes of pooling as pool.cu takes them, in 32 bits where every number on the way to a place fits.
#pragma once
#include <algorithm>
#include <cstdlib>

#include "flame/device/cpu/pool_kernel.h"

namespace flame {

// As in pool.cu, with places as I.
template <class I>
struct DevicePool {
  I images, channels;
  struct {
    I size, out, kernel, stride, padding, dilation;
  } axis[3];
  bool channels_last, adaptive, count_padding;
  I divisor;

  explicit DevicePool(const PoolSizes& p)
      : images(static_cast<I>(p.images)),
        channels(static_cast<I>(p.channels)),
        channels_last(p.channels_last),
        adaptive(p.adaptive),
        count_padding(p.count_padding),
        divisor(static_cast<I>(p.divisor)) {
    const auto as_i = [](int64_t v) { return static_cast<I>(v); };
    for (int i = 0; i < 3; ++i) {
      const PoolAxis& a = p.axis[i];
      axis[i] = {as_i(a.size), as_i(a.out), as_i(a.kernel), as_i(a.stride), as_i(a.padding), as_i(a.dilation)};
    }
  }
};

// The largest of the numbers, beside the counts of elements, that places are computed from.
inline int64_t most_of(const PoolSizes& p) {
  int64_t most = std::abs(p.divisor);
  for (const PoolAxis& a : p.axis)
    most = std::max({most, (a.size + 1) * (a.out + 1), a.out * a.stride + a.kernel * a.dilation + a.padding});
  return most;
}

}  // namespace flame
