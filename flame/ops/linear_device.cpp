// The gradients of a small linear layer as one op, whose kernel is in linear_backward.cu: where a launch counts for
// more than the multiplications, the products share one, and relu's slope and the bias's sums need none.
#include <algorithm>
#include <mutex>

#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/device/small_tiles.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/linear_internal.h"
#include "flame/ops/matmul.h"

namespace flame {
namespace {

// As in linear_backward.cu.
struct Layer {
  int32_t rows, in, out, first;
};

// (g [rows, out], x [rows, in], (weight [out, in]), (y)) -> ((dw, (db)), (dx)), the last with a weight
class SmallBackward final : public Op {
 public:
  SmallBackward(bool relu, bool bias, bool for_x, bool for_w)
      : relu_(relu), bias_(bias), for_x_(for_x), for_w_(for_w) {}
  const char* name() const override { return "linear_backward"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    const int64_t columns = in[0].size(1);
    std::vector<Meta> out;
    if (for_w_) out.push_back(contiguous_meta(DType::f32, {columns, in[1].size(1)}));
    if (bias_) out.push_back(contiguous_meta(DType::f32, {columns}));
    if (for_x_) out.push_back(contiguous_meta(DType::f32, in[1].shape()));
    return out;
  }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  void key(Key& k) const override { k << relu_ << bias_ << for_x_ << for_w_; }
  bool differentiable() const override { return false; }  // the rule of linear has another way for that
  int64_t flops(std::span<const Meta> in, std::span<const Meta>) const override {
    return 2 * (int{for_x_} + int{for_w_}) * in[0].shape[1] * in[1].shape[1] * in[0].shape[0];
  }

  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    const int64_t rows = in[0].shape[0], out = in[0].shape[1], wide = in[1].shape[1];
    constexpr int deepest = 2;
    const auto for_dx = [&](int tile) { return for_x_ ? SmallTiles::of(rows, wide, tile) : 0; };
    const auto for_dw = [&](int tile) { return for_w_ ? SmallTiles::of(out, wide, tile) : 0; };
    const SmallTiles tiles(for_dx(32) + for_dw(32), std::max(for_x_ ? out : 0, for_w_ ? rows : 0), deepest);
    const int64_t first = for_dx(tiles.tile), blocks = first + for_dw(tiles.tile);
    const auto kernel = [=, &d, relu = relu_, bias = bias_, for_x = for_x_](bool aligned) {
      const auto pack = [&](const char* which, int64_t n) {
        return fmt::format("-DFLAME_{}={}", which, aligned && n % 4 == 0 ? 4 : 1);
      };
      return device_kernel(d, "ops/linear_backward.cu", "linear_backward", DType::f32,
                           {fmt::format("-DFLAME_RELU={}", int{relu}), fmt::format("-DFLAME_BIAS={}", int{bias}),
                            fmt::format("-DFLAME_X={}", int{for_x}), pack("OUT", out), pack("IN", wide),
                            fmt::format("-DFLAME_TILE={}", tiles.tile), fmt::format("-DFLAME_WARPS={}", tiles.warps),
                            fmt::format("-DFLAME_DEPTH={}", tiles.depth)});
    };
    const Layer l{static_cast<int32_t>(rows), static_cast<int32_t>(wide), static_cast<int32_t>(out),
                  static_cast<int32_t>(first)};
    const int reads = 2 + for_x_ + relu_, writes = for_w_ + bias_ + for_x_;
    const auto run = [=, bias = bias_, for_x = for_x_, for_w = for_w_, relu = relu_](const Kernel& k, const Run& r) {
      void* const* b = r.buffers;
      k({.blocks = blocks, .threads = 32 * tiles.warps}, l, b[0], b[1], for_x ? b[2] : nullptr,
        relu ? b[reads - 1] : nullptr, for_w ? b[reads] : nullptr, bias ? b[reads + 1] : nullptr,
        for_x ? b[reads + writes - 1] : nullptr);
    };
    struct Late {  // for tensors that begin at odd places, made when the first ones come
      std::once_flag made;
      Ref<Kernel> kernel;
    };
    return make_ref<Plan>(name(), [=, packed = kernel(true), late = std::make_shared<Late>()](const Run& r) {
      bool aligned = true;
      for (int i = 0; i < reads; ++i) aligned &= reinterpret_cast<uintptr_t>(r.buffers[i]) % 16 == 0;
      if (aligned) return run(*packed, r);
      std::call_once(late->made, [&] { late->kernel = kernel(false); });
      run(*late->kernel, r);
    });
  }

 private:
  const bool relu_, bias_, for_x_, for_w_;
};

}  // namespace

bool one_launch_fits(const Tensor& g, const Meta& x, const Meta& weight) {
  constexpr int64_t longest = 1024, most = int64_t{1} << 27;  // sums, and multiplications
  if (g.device().kind() != Device::Kind::cuda || g.dtype() != DType::f32 || matmul_precision() != "high") return false;
  const int64_t out = weight.shape[0], in = weight.shape[1], rows = g.numel() / std::max<int64_t>(out, 1);
  if (rows == 0 || out == 0 || in == 0 || rows > longest || out > longest || 2 * rows * out * in > most) return false;
  return is_contiguous(x.shape, x.strides) && is_contiguous(weight.shape, weight.strides);
}

LinearGradients one_launch_gradients(const Tensor& g, const Tensor& x, const Tensor& weight, const Tensor& y,
                                     bool for_bias, Loc loc) {
  const auto flat = [&](const Tensor& t) { return t.reshape({-1, t.shape().back()}, loc); };
  const bool for_x = weight.defined();
  const Tensor flat_g = flat(g), flat_x = flat(x);
  const auto launched = [&](bool bias, bool dx, bool dw) {
    std::vector<Tensor> in{flat_g, flat_x};
    if (dx) in.push_back(weight);
    if (y.defined()) in.push_back(flat(y));
    return dispatch_multi(make_ref<SmallBackward>(y.defined(), bias, dx, dw), in, loc);
  };
  // What takes a GPU more than two turns is two launches, so that what comes behind dx need not wait for dw.
  constexpr int64_t at_once = int64_t{2} * 132;  // blocks
  const int64_t rows = flat_g.shape()[0], columns = flat_g.shape()[1], wide = flat_x.shape()[1];
  const bool parted = for_x && SmallTiles::of(rows, wide, 32) + SmallTiles::of(columns, wide, 32) > 2 * at_once;
  const Tensor dx = parted ? launched(false, true, false)[0] : Tensor();
  const std::vector<Tensor> out = launched(for_bias, for_x && !parted, true);
  return {for_x ? (parted ? dx : out.back()).reshape(x.shape(), loc) : Tensor(), out[0], for_bias ? out[1] : Tensor()};
}

}  // namespace flame
