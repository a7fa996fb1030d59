// The own convolution: any dtype, axes, groups and padding, for what cuDNN does not take.
#include <optional>

#include "flame/device/cuda/libraries.h"
#include "flame/device/kernel.h"

namespace flame::cuda {
namespace {

// As in conv.cu. Axes that are not there have size 1.
struct Problem {
  int64_t n, c, o, groups;
  int64_t x[3], w[3], y[3];
  int64_t stride[3], padding[3], dilation[3];
  int64_t xs[5], ws[5], ys[5];
};

Problem problem(const ConvDesc& d) {
  Problem p{d.x.shape[0], d.x.shape[1], d.w.shape[0], d.groups, {1, 1, 1}, {1, 1, 1}, {1, 1, 1},
            {1, 1, 1},    {},           {1, 1, 1},    {},       {},        {}};
  const int axes = d.stride.rank(), skip = 3 - axes;
  for (int i = 0; i < axes; ++i) {
    p.x[skip + i] = d.x.shape[2 + i];
    p.w[skip + i] = d.w.shape[2 + i];
    p.y[skip + i] = d.y.shape[2 + i];
    p.stride[skip + i] = d.stride[i];
    p.padding[skip + i] = d.padding[i];
    p.dilation[skip + i] = d.dilation[i];
  }
  const auto strides = [&](const Meta& m, int64_t* to) {
    to[0] = m.strides[0];
    to[1] = m.strides[1];
    for (int i = 0; i < axes; ++i) to[2 + skip + i] = m.strides[2 + i];
  };
  strides(d.x, p.xs);
  strides(d.w, p.ws);
  strides(d.y, p.ys);
  return p;
}

}  // namespace

ConvFinish::ConvFinish(Device& d, DType t, bool bias, Activation a)
    : kernel_(d.kernel({"conv finish",
                        std::string(own_text("device/cuda/filter.cu")),
                        "finish",
                        {std::string("-DFLAME_T=") + device_type(t), std::string("-DFLAME_BIAS=") + (bias ? "1" : "0"),
                         std::string("-DFLAME_RELU=") + (a == Activation::relu ? "1" : "0"), "--fmad=false"}})) {}

void ConvFinish::operator()(const void* bias, void* y, int64_t count, int64_t channels) const {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const bool packed = aligned(bias) && aligned(y) && count % 8 == 0 && (bias == nullptr || channels % 8 == 0);
  (*kernel_)({.blocks = blocks_for(count, 2048)}, bias, y, count, channels, packed);
}

Ref<Plan> own_conv(Device& d, const ConvDesc& c) {
  constexpr const char* entries[] = {"forward", "backward_data", "backward_weight"};
  const Meta& out = c.pass == ConvDesc::Pass::forward ? c.y : c.pass == ConvDesc::Pass::backward_data ? c.x : c.w;
  const int64_t n = numel(out.shape);
  const std::string name = std::string("conv ") + entries[static_cast<int>(c.pass)];
  if (n == 0) return make_ref<Plan>(name, [](const Run&) {});
  const Ref<Kernel> k = d.kernel({name,
                                  std::string(own_text("device/cuda/conv.cu")),
                                  entries[static_cast<int>(c.pass)],
                                  {std::string("-DFLAME_T=") + device_type(c.x.dtype), "--fmad=false"}});
  const Problem p = problem(c);
  std::optional<ConvFinish> finish;
  if (c.activation != Activation::none) finish.emplace(d, c.x.dtype, false, c.activation);
  if (c.pass == ConvDesc::Pass::forward)
    return make_ref<Plan>(name, [k, p, n, finish, bias = c.bias](const Run& r) {
      void* y = r.buffers[bias ? 3 : 2];
      (*k)({.blocks = blocks_for(n, 256)}, p, r.buffers[0], r.buffers[1], bias ? r.buffers[2] : nullptr, y);
      if (finish) (*finish)(nullptr, y, n, 1);
    });
  const int64_t blocks = c.pass == ConvDesc::Pass::backward_data ? blocks_for(n, 256) : n;
  return make_ref<Plan>(
      name, [k, p, blocks](const Run& r) { (*k)({.blocks = blocks}, p, r.buffers[0], r.buffers[1], r.buffers[2]); });
}

}  // namespace flame::cuda
