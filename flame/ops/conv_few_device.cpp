// Convolutions of few channels, whose kernels are in conv_few.cu.
#include <bit>

#include "flame/core/format.h"
#include "flame/ops/conv_few_internal.h"
#include "flame/ops/device_internal.h"

namespace flame {
namespace {

// As in conv_few.cu.
struct Few {
  int32_t h, w, out_h, out_w, places, per_block;
  int32_t stride[2], padding[2], dilation[2];
  int32_t xs[4], ws[4];
};

constexpr int64_t most_blocks = 528;  // of few threads' registers each: four for each of 132 multiprocessors

struct Launches {
  Few few{};
  int32_t blocks, lanes, numbers;  // numbers: of the filters and the sums
  std::vector<std::string> options;

  explicit Launches(const ConvDesc& c) {
    const auto small = [](int64_t n) { return static_cast<int32_t>(n); };
    lanes = small(c.y.shape[1] / 4);
    const int32_t walkers = 256 / lanes;
    few.h = small(c.x.shape[2]);
    few.w = small(c.x.shape[3]);
    few.out_h = small(c.y.shape[2]);
    few.out_w = small(c.y.shape[3]);
    few.places = small(numel(c.y.shape) / c.y.shape[1]);
    few.per_block = small(blocks_for(few.places, most_blocks * walkers)) * walkers;
    blocks = small(blocks_for(few.places, few.per_block));
    numbers = small(numel(c.w.shape) + c.w.shape[0]);
    for (int i = 0; i < 2; ++i) {
      few.stride[i] = small(c.stride[i]);
      few.padding[i] = small(c.padding[i]);
      few.dilation[i] = small(c.dilation[i]);
    }
    for (int i = 0; i < 4; ++i) {
      few.xs[i] = small(c.x.strides[i]);
      few.ws[i] = small(c.w.strides[i]);
    }
    const auto option = [](const char* what, int64_t n) { return fmt::format("-DFLAME_{}={}", what, n); };
    options = {option("C", c.x.shape[1]), option("R", c.w.shape[2]), option("S", c.w.shape[3]),
               option("LANES", lanes),    option("BIAS", c.bias),    option("RELU", c.activation == Activation::relu)};
  }
  Ref<Kernel> kernel(Device& d, const char* entry, bool aligned = true) const {
    std::vector<std::string> all = options;
    all.push_back(fmt::format("-DFLAME_ALIGNED={}", int{aligned}));
    return device_kernel(d, "ops/conv_few.cu", entry, DType::f32, std::move(all));
  }
};

}  // namespace

bool few_channels(const Device& d, const ConvDesc& c) {
  constexpr int64_t most_channels = 4, most_numbers = 27, far = int64_t{1} << 31;
  constexpr int64_t least = 1 << 13;  // numbers of y that are worth kernels of their own
  if (d.kind() != Device::Kind::cuda || c.x.dtype != DType::f32 || c.stride.rank() != 2 || c.groups != 1) return false;
  const int64_t filters = c.w.shape[0], inner = numel(c.w.shape) / std::max<int64_t>(filters, 1);
  if (numel(c.x.shape) == 0 || numel(c.y.shape) < least || inner == 0 || inner > most_numbers) return false;
  if (c.x.shape[1] > most_channels || filters % 4 != 0 || filters > 128 || !std::has_single_bit(uint64_t(filters)))
    return false;
  int64_t reach = numel(c.y.shape);
  for (int i = 0; i < 4; ++i) {
    if (c.x.strides[i] < 0 || c.w.strides[i] < 0) return false;
    reach = std::max(reach, c.x.shape[i] * c.x.strides[i] + c.w.shape[i] * c.w.strides[i]);
  }
  for (int i = 0; i < 2; ++i)
    reach = std::max(reach, std::max(c.padding[i], c.y.shape[i + 2] * c.stride[i] + c.w.shape[i + 2] * c.dilation[i]));
  return reach < far / 4 && is_channels_last(c.y.shape, c.y.strides);
}

Ref<Plan> few_channels_forward(Device& d, const ConvDesc& c) {
  const Launches l(c);
  return make_ref<Plan>("conv forward", [l, k = l.kernel(d, "forward"), bias = c.bias](const Run& r) {
    void* const* b = r.buffers;
    (*k)({.blocks = l.blocks}, l.few, b[0], b[1], bias ? b[2] : nullptr, b[bias ? 3 : 2]);
  });
}

Ref<Plan> few_channels_backward(Device& d, const ConvDesc& c) {
  const Launches l(c);
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

}  // namespace flame
