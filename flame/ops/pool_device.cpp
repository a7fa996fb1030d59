// Pooling on a device that compiles text: which kernel, how many numbers a thread, and their sizes as it takes them.
#include "flame/ops/pool_device_internal.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "flame/core/format.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/split_internal.h"

namespace flame {
namespace {

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

// The largest of the numbers that places are computed from.
int64_t most_of(const PoolSizes& p) {
  int64_t most =
      std::max({std::abs(p.divisor), p.images * p.channels * p.plane(), p.images * p.channels * p.out_plane()});
  for (const PoolAxis& a : p.axis)
    most = std::max({most, (a.size + 1) * (a.out + 1), a.out * a.stride + a.kernel * a.dilation + a.padding});
  return most;
}
constexpr int64_t most_small = int64_t{1} << 30;

template <class I>
Ref<Plan> any_windows(Device& d, const DevicePoolPass& s, const PoolSizes& p, int64_t count) {
  const char* type = sizeof(I) == 4 ? "-DFLAME_INDEX=int32_t" : "-DFLAME_INDEX=int64_t";
  return make_ref<Plan>(s.name, [k = device_kernel(d, "ops/pool.cu", s.entry(), s.dtype, {type}), p = DevicePool<I>(p),
                                 index = s.index, out = s.out, count](const Run& r) {
    const Grid grid{.blocks = blocks_for(count, 256)};
    if (index < 0) (*k)(grid, p, r.buffers[0], r.buffers[out]);
    else (*k)(grid, p, r.buffers[0], r.buffers[index], r.buffers[out]);
  });
}

// As in pool_fixed.cu.
struct FixedPool {
  int32_t count, channels, divisor, size[3], out[3];
  Split split[4];
  bool count_padding;
};
// What a thread makes: v neighbours, along the last axis if row > 0, where inputs are read by `row` elements forward and by
// `step` windows backward.
struct Neighbours {
  int64_t v = 1, row = 0, step = 1;
};
Neighbours neighbours_of(const PoolSizes& p, bool backward, int64_t most) {
  const PoolAxis& w = p.axis[2];
  if (p.channels_last) return {std::gcd(most, p.channels)};
  const int64_t v = std::gcd(most, backward ? w.size : w.out);
  if (v == 1 || (backward && v % w.stride != 0)) return {};
  if (backward) return {v, v, std::gcd(v / w.stride, w.out)};
  return {v, std::gcd(std::gcd(most, v * w.stride), w.size)};
}

class FixedWindows {
 public:
  FixedWindows(Device& d, const DevicePoolPass& s, const PoolSizes& p) : device_(&d), pass_(s), sizes_(p) {
    fast_ = launch_of(neighbours_of(p, s.backward(), 16 / static_cast<int64_t>(size_of(s.dtype))));
  }
  void operator()(const Run& r) const {
    uintptr_t at = 0;  // of all buffers
    for (int i : {0, pass_.index, pass_.out})
      if (i >= 0) at |= reinterpret_cast<uintptr_t>(r.buffers[i]);
    const Launch one = fast_.v > 1 && at % 16 != 0 ? launch_of({}) : fast_;
    const Grid grid{.blocks = blocks_for(one.sizes.count, 256)};
    if (pass_.index < 0) (*one.kernel)(grid, one.sizes, r.buffers[0], r.buffers[pass_.out]);
    else (*one.kernel)(grid, one.sizes, r.buffers[0], r.buffers[pass_.index], r.buffers[pass_.out]);
  }

 private:
  struct Launch {
    int64_t v = 1;
    Ref<Kernel> kernel;
    FixedPool sizes{};
  };
  Device* device_;
  DevicePoolPass pass_;
  PoolSizes sizes_;
  Launch fast_;

  Launch launch_of(const Neighbours& n) const {
    const PoolSizes& p = sizes_;
    std::string window = "-DFLAME_WINDOW=";
    FixedPool f{};
    for (int i = 0; i < 3; ++i) {
      const PoolAxis& a = p.axis[i];
      window += fmt::format("{}{{{},{},{}}}", i ? "," : "", a.kernel, a.stride, a.padding);
      f.size[i] = static_cast<int32_t>(a.size);
      f.out[i] = static_cast<int32_t>(a.out);
      f.split[3 - i] = Split((pass_.backward() ? a.size : a.out) / (i == 2 && n.row > 0 ? n.v : 1));
    }
    f.split[0] = Split(p.channels_last ? p.channels / n.v : 1);
    f.channels = p.channels_last ? static_cast<int32_t>(p.channels) : 1;
    f.count = static_cast<int32_t>(p.images * p.channels * (pass_.backward() ? p.plane() : p.out_plane()) / n.v);
    f.divisor = static_cast<int32_t>(p.divisor);
    f.count_padding = p.count_padding;
    return {n.v,
            device_kernel(
                *device_, "ops/pool_fixed.cu", pass_.entry(), pass_.dtype,
                {window, std::string("-DFLAME_PLACE=") + device_type(pass_.place), fmt::format("-DFLAME_V={}", n.v),
                 fmt::format("-DFLAME_ROW={}", n.row), fmt::format("-DFLAME_STEP={}", n.step),
                 fmt::format("-DFLAME_PASS={}", static_cast<int>(pass_.pass))}),
            f};
  }
};

}  // namespace

bool has_fixed_windows(const PoolSizes& p) {
  constexpr int64_t most_places = 32;
  int64_t places = 1;
  for (const PoolAxis& a : p.axis) {
    if (a.kernel > most_places || a.dilation != 1) return false;
    places *= a.kernel;
  }
  return !p.adaptive && places <= most_places && most_of(p) < most_small;
}

Ref<Plan> device_pool(Device& d, const DevicePoolPass& s, const PoolSizes& p) {
  const int64_t count = p.images * p.channels * (s.backward() ? p.plane() : p.out_plane());
  if (count == 0) return make_ref<Plan>(s.name, [](const Run&) {});
  if (has_fixed_windows(p))
    return make_ref<Plan>(s.name, [launch = FixedWindows(d, s, p)](const Run& r) { launch(r); });
  return most_of(p) < most_small ? any_windows<int32_t>(d, s, p, count) : any_windows<int64_t>(d, s, p, count);
}

}  // namespace flame
