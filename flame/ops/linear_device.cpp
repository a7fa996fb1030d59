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

// (g [rows, out], x [rows, in], (weight [out, in]), (y)) -> (dw, (db), (dx)), the last with a weight
class SmallBackward final : public Op {
 public:
  SmallBackward(bool relu, bool bias, bool for_x) : relu_(relu), bias_(bias), for_x_(for_x) {}
  const char* name() const override { return "linear_backward"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    const int64_t columns = in[0].size(1);
    std::vector<Meta> out{contiguous_meta(DType::f32, {columns, in[1].size(1)})};
    if (bias_) out.push_back(contiguous_meta(DType::f32, {columns}));
    if (for_x_) out.push_back(contiguous_meta(DType::f32, in[1].shape()));
    return out;
  }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  void key(Key& k) const override { k << relu_ << bias_ << for_x_; }
  bool differentiable() const override { return false; }  // the rule of linear has another way for that
  int64_t flops(std::span<const Meta> in, std::span<const Meta>) const override {
    return (for_x_ ? 4 : 2) * in[0].shape[1] * in[1].shape[1] * in[0].shape[0];
  }

  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    const int64_t rows = in[0].shape[0], out = in[0].shape[1], wide = in[1].shape[1];
    constexpr int deepest = 2;
    const SmallTiles tiles((for_x_ ? SmallTiles::of(rows, wide, 32) : 0) + SmallTiles::of(out, wide, 32),
                           for_x_ ? std::max(rows, out) : rows, deepest);
    const int64_t first = for_x_ ? SmallTiles::of(rows, wide, tiles.tile) : 0,
                  blocks = first + SmallTiles::of(out, wide, tiles.tile);
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
    const int reads = 2 + for_x_ + relu_, writes = 1 + bias_ + for_x_;
    const auto run = [=, bias = bias_, for_x = for_x_, relu = relu_](const Kernel& k, const Run& r) {
      void* const* b = r.buffers;
      k({.blocks = blocks, .threads = 32 * tiles.warps}, l, b[0], b[1], for_x ? b[2] : nullptr,
        relu ? b[reads - 1] : nullptr, b[reads], bias ? b[reads + 1] : nullptr,
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
  const bool relu_, bias_, for_x_;
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
  std::vector<Tensor> in{flat(g), flat(x)};
  if (for_x) in.push_back(weight);
  if (y.defined()) in.push_back(flat(y));
  const std::vector<Tensor> out = dispatch_multi(make_ref<SmallBackward>(y.defined(), for_bias, for_x), in, loc);
  return {for_x ? out.back().reshape(x.shape(), loc) : Tensor(), out[0], for_bias ? out[1] : Tensor()};
}

}  // namespace flame
