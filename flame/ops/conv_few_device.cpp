// Small convolutions, whose kernels are in conv_few.cu and conv_weight.cu.
#include <bit>

#include "flame/core/format.h"
#include "flame/ops/conv_few_internal.h"
#include "flame/ops/device_internal.h"

namespace flame {
namespace {

// As in conv_place.cuh.
struct Places {
  int32_t h, w, out_h, out_w, places, per_block;
  int32_t stride[2], padding[2], dilation[2];
  int32_t xs[4], ws[4];
};

int32_t small(int64_t n) { return static_cast<int32_t>(n); }

// A block's share of the places is a multiple of `unit`, and there are at most `blocks` of them.
Places places_of(const ConvDesc& c, int64_t unit, int64_t blocks) {
  Places p{};
  p.h = small(c.x.shape[2]);
  p.w = small(c.x.shape[3]);
  p.out_h = small(c.y.shape[2]);
  p.out_w = small(c.y.shape[3]);
  p.places = small(numel(c.y.shape) / c.y.shape[1]);
  p.per_block = small(blocks_for(p.places, blocks * unit) * unit);
  for (int i = 0; i < 2; ++i) {
    p.stride[i] = small(c.stride[i]);
    p.padding[i] = small(c.padding[i]);
    p.dilation[i] = small(c.dilation[i]);
  }
  for (int i = 0; i < 4; ++i) {
    p.xs[i] = small(c.x.strides[i]);
    p.ws[i] = small(c.w.strides[i]);
  }
  return p;
}

// Float32 over two axes, channels-last, every place within 32 bits.
bool within_reach(const Device& d, const ConvDesc& c) {
  constexpr int64_t far = int64_t{1} << 29;
  if (d.kind() != Device::Kind::cuda || c.x.dtype != DType::f32 || c.stride.rank() != 2 || c.groups != 1) return false;
  if (numel(c.x.shape) == 0 || numel(c.y.shape) == 0 || numel(c.w.shape) == 0) return false;
  int64_t reach = numel(c.y.shape);
  for (int i = 0; i < 4; ++i) {
    if (c.x.strides[i] < 0 || c.w.strides[i] < 0) return false;
    reach = std::max(reach, c.x.shape[i] * c.x.strides[i] + c.w.shape[i] * c.w.strides[i]);
  }
  for (int i = 0; i < 2; ++i)
    reach = std::max(reach, std::max(c.padding[i], c.y.shape[i + 2] * c.stride[i] + c.w.shape[i + 2] * c.dilation[i]));
  return reach < far && is_channels_last(c.y.shape, c.y.strides);
}

// As in conv_few.cu.
struct Few {
  Places at;
  int32_t width;
};

struct Launches {
  Few few;
  int32_t blocks, lanes, numbers;  // numbers: of the filters and the sums
  std::vector<std::string> options;

  Launches(const ConvDesc& c, bool forward) : lanes(small(c.y.shape[1] / 4)) {
    constexpr int64_t multiprocessors = 132;
    const int64_t inner = numel(c.w.shape) / c.w.shape[0], width = c.y.shape[3];
    const int64_t resident = inner <= 9 && forward ? 3 : inner <= 16 ? 2 : 1;  // as registers allow
    const int64_t together = c.stride[1] == 1 && c.dilation[1] == 1 && width > 1 ? 2 : 1;
    ConvDesc grouped = c;
    grouped.y.shape[3] = blocks_for(width, together);
    few = {places_of(grouped, 256 / lanes, resident * multiprocessors), small(width)};
    blocks = small(blocks_for(few.at.places, few.at.per_block));
    numbers = small(numel(c.w.shape) + c.w.shape[0]);
    const auto option = [](const char* what, int64_t n) { return fmt::format("-DFLAME_{}={}", what, n); };
    options = {option("C", c.x.shape[1]),    option("R", c.w.shape[2]),
               option("S", c.w.shape[3]),    option("LANES", lanes),
               option("BIAS", c.bias),       option("RELU", c.activation == Activation::relu),
               option("TOGETHER", together), option("RESIDENT", resident)};
  }
  Ref<Kernel> kernel(Device& d, const char* entry, bool aligned = true) const {
    std::vector<std::string> all = options;
    all.push_back(fmt::format("-DFLAME_ALIGNED={}", int{aligned}));
    return device_kernel(d, "ops/conv_few.cu", entry, DType::f32, std::move(all));
  }
};

}  // namespace

bool few_channels(const Device& d, const ConvDesc& c) {
  constexpr int64_t most_channels = 4, most_numbers = 27;
  constexpr int64_t least = 1 << 13;  // numbers of y that are worth kernels of their own
  if (!within_reach(d, c) || numel(c.y.shape) < least || c.x.shape[1] > most_channels) return false;
  const int64_t filters = c.w.shape[0];
  return numel(c.w.shape) <= most_numbers * filters && filters % 4 == 0 && filters <= 128 &&
         std::has_single_bit(static_cast<uint64_t>(filters));
}

Ref<Plan> few_channels_forward(Device& d, const ConvDesc& c) {
  const Launches l(c, true);
  return make_ref<Plan>("conv forward", [l, k = l.kernel(d, "forward"), bias = c.bias](const Run& r) {
    void* const* b = r.buffers;
    (*k)({.blocks = l.blocks}, l.few, b[0], b[1], bias ? b[2] : nullptr, b[bias ? 3 : 2]);
  });
}

Ref<Plan> few_channels_backward(Device& d, const ConvDesc& c) {
  const Launches l(c, false);
  const int reads = c.activation == Activation::relu ? 3 : 2;
  return make_ref<Plan>(
      "conv backward_weight",
      [l, reads, wide = l.kernel(d, "backward_weight"), narrow = l.kernel(d, "backward_weight", false),
       join = l.kernel(d, "join"), bias = c.bias](const Run& r) {
        void* const* b = r.buffers;
        bool aligned = true;
        for (int i = 1; i < reads; ++i) aligned &= reinterpret_cast<uintptr_t>(b[i]) % 16 == 0;
        (aligned ? *wide : *narrow)({.blocks = l.blocks}, l.few, b[0], b[1], reads == 3 ? b[2] : nullptr, r.workspace);
        (*join)({.blocks = blocks_for(l.numbers, 8)}, l.few, r.workspace, l.blocks, b[reads],
                bias ? b[reads + 1] : nullptr);
      },
      static_cast<size_t>(l.numbers) * static_cast<size_t>(l.blocks) * sizeof(float));
}

bool small_weight_gradient_fits(const Device& d, const ConvDesc& c) {
  constexpr int64_t least = int64_t{1} << 22, most = int64_t{1} << 30;  // multiplications
  constexpr int64_t most_numbers = 1 << 17;                             // of filters: each share writes them all
  if (!c.tf32 || !within_reach(d, c) || numel(c.w.shape) > most_numbers) return false;
  const int64_t products = numel(c.y.shape) / c.w.shape[0] * numel(c.w.shape);
  return c.x.shape[1] % 4 == 0 && c.x.strides[1] == 1 && c.w.shape[0] % 4 == 0 && products >= least && products <= most;
}

Ref<Plan> small_weight_gradient(Device& d, const ConvDesc& c) {
  struct Filters {
    Places at;
    int32_t out, channels, columns, numbers;
  };
  constexpr int64_t most_blocks_at_once = int64_t{2} * 132, slab = 32, stages = 4;
  constexpr int shared = static_cast<int>(sizeof(float) * stages * slab * (64 + 8 + 96 + 8));
  const int64_t out = c.w.shape[0], numbers = numel(c.w.shape) / out, all = numel(c.w.shape);
  const int64_t tiles = blocks_for(out, 64) * blocks_for(numbers, 96);
  const Filters f{places_of(c, slab, std::max<int64_t>(1, most_blocks_at_once / tiles)), small(out),
                  small(c.x.shape[1]), small(c.w.shape[3]), small(numbers)};
  const int64_t shares = blocks_for(f.at.places, f.at.per_block);
  const auto kernel = [&](const char* entry, bool aligned) {
    return device_kernel(d, "ops/conv_weight.cu", entry, DType::f32, {fmt::format("-DFLAME_ALIGNED={}", int{aligned})});
  };
  return make_ref<Plan>(
      "conv backward_weight",
      [=, wide = kernel("shares", true), narrow = kernel("shares", false),
       join = kernel("join_shares", true)](const Run& r) {
        void* const* b = r.buffers;
        const bool aligned = (reinterpret_cast<uintptr_t>(b[0]) | reinterpret_cast<uintptr_t>(b[1])) % 16 == 0;
        (aligned ? *wide : *narrow)({.blocks = tiles * shares, .threads = 192, .shared = shared}, f, b[0], b[1],
                                    r.workspace);
        (*join)({.blocks = blocks_for(all, 32)}, f, r.workspace, small(shares), b[2]);
      },
      static_cast<size_t>(all * shares) * sizeof(float));
}

}  // namespace flame
