// Sums by channel of channels-last tensors on a GPU: two launches each.
#include "flame/ops/channel_norm_internal.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <memory>
#include <mutex>

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/normalize_internal.h"

namespace flame {
namespace {

// Of a launch's first part, four on each of 132 processors, which then all run at once; rows a block.
constexpr int64_t most_blocks = 528, least_share = 64;

// As in channel_norm.cu.
struct Channels {
  int64_t rows, channels, share;
};

struct Form {
  Channels n;
  int pack, across;
  int64_t blocks, tiles;

  explicit Form(const Meta& x) {
    const int64_t channels = x.shape[1], rows = numel(x.shape) / channels;
    pack = static_cast<int>(std::min<int64_t>(16 / static_cast<int64_t>(size_of(x.dtype)), channels & -channels));
    const auto packs = static_cast<uint64_t>(channels / pack);
    across = static_cast<int>(std::min<uint64_t>(32, std::bit_ceil(packs)));
    tiles = blocks_for(channels, int64_t{across} * pack);
    const int64_t share = std::max(least_share, blocks_for(rows * tiles, most_blocks));
    blocks = blocks_for(rows, share);
    n = {rows, channels, share};
  }
  size_t workspace(DType t) const {
    return static_cast<size_t>(2 * blocks * n.channels) * size_of(compute_dtype_of(t));
  }
  Grid first() const { return {.blocks = tiles, .y = blocks}; }
  Grid second() const { return {.blocks = blocks_for(n.channels, 32), .threads = 1024}; }
  Ref<Kernel> kernel(Device& d, const char* entry, DType t, bool aligned = true) const {
    return device_kernel(d, "ops/channel_norm.cu", entry, t,
                         {fmt::format("-DFLAME_PACK={}", pack), fmt::format("-DFLAME_ACROSS={}", across),
                          fmt::format("-DFLAME_ALIGNED={}", int{aligned})});
  }
};

// A first part, and one for tensors that begin at odd places.
class FirstPart {
 public:
  FirstPart(Device& d, const Form& f, const char* entry, DType t)
      : wide_(f.kernel(d, entry, t)), make_([=, &d] { return f.kernel(d, entry, t, false); }) {}
  Kernel& of(const void* x, const void* g) {
    if ((reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(g)) % 16 == 0) return *wide_;
    std::call_once(made_, [&] { narrow_ = make_(); });
    return *narrow_;
  }

 private:
  Ref<Kernel> wide_, narrow_;
  std::function<Ref<Kernel>()> make_;
  std::once_flag made_;
};

// (x) -> (mean, var), or (x, g, mean, scale) -> (sum g, sum g u).
class ByChannel final : public Op {
 public:
  explicit ByChannel(bool slopes) : slopes_(slopes) {}
  const char* name() const override { return slopes_ ? "channel_slopes" : "channel_moments"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    Shape kept = Dims::filled(in[0].rank(), 1);
    kept[1] = in[0].shape()[1];
    const Meta m = contiguous_meta(compute_dtype_of(in[0].dtype()), kept);
    return {m, m};
  }
  Layout layout(int i, const Meta&) const override { return i < 2 ? Layout::channels_last : Layout::contiguous; }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    const Form f(in[0]);
    const DType t = in[0].dtype;
    const auto first = std::make_shared<FirstPart>(d, f, slopes_ ? "slopes" : "moments", t);
    if (slopes_)
      return make_ref<Plan>(
          name(),
          [f, first, join = f.kernel(d, "join_slopes", t)](const Run& r) {
            void* const* b = r.buffers;
            first->of(b[0], b[1])(f.first(), f.n, b[0], b[1], b[2], b[3], r.workspace);
            (*join)(f.second(), f.n, r.workspace, f.blocks, b[4], b[5]);
          },
          f.workspace(t));
    return make_ref<Plan>(
        name(),
        [f, first, join = f.kernel(d, "join_moments", t)](const Run& r) {
          first->of(r.buffers[0], nullptr)(f.first(), f.n, r.buffers[0], r.workspace);
          (*join)(f.second(), f.n, r.workspace, f.blocks, r.buffers[1], r.buffers[2]);
        },
        f.workspace(t));
  }
  bool differentiable() const override { return false; }

 private:
  bool slopes_;
};

}  // namespace

bool sums_by_channel(const Tensor& x, const Dims& axes) {
  if (x.device().kind() != Device::Kind::cuda || x.rank() < 3 || x.rank() > 5 || x.numel() == 0) return false;
  if (axes.rank() != x.rank() - 1 || axes[0] != 0) return false;
  for (int i = 1; i < axes.rank(); ++i)
    if (axes[i] != i + 1) return false;
  return is_channels_last(x.shape(), x.strides()) && !is_contiguous(x.shape(), x.strides());
}

ChannelSums channel_moments(const Tensor& x, Loc loc) {
  const std::vector<Tensor> out = dispatch_multi(make_ref<ByChannel>(false), {&x, 1}, loc);
  return {out[0], out[1]};
}

ChannelSums channel_slopes(const Tensor& x, const Tensor& g, const Tensor& mean, const Tensor& scale, Loc loc) {
  const Tensor in[] = {x, g, mean, scale};
  const std::vector<Tensor> out = dispatch_multi(make_ref<ByChannel>(true), in, loc);
  return {out[0], out[1]};
}

}  // namespace flame
