// The gradients of a small linear layer as one op, whose kernel is in linear_backward.cu: where a launch counts for more than the
// multiplications, the products share one, and relu's slope and the bias's sums need none.
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/linear_internal.h"
#include "flame/ops/matmul.h"

namespace flame {
namespace {

// As in linear_backward.cu.
struct Layer {
  int32_t rows, in, out, first;
};

int64_t tiles(int64_t m, int64_t n, int tile) { return blocks_for(m, tile) * blocks_for(n, tile); }

// (g [rows, out], x [rows, in], weight [out, in], (y)) -> ((dw), (db), (dx))
class SmallBackward final : public Op {
 public:
  SmallBackward(bool relu, bool bias, bool for_x, bool for_w)
      : relu_(relu), bias_(bias), for_x_(for_x), for_w_(for_w) {}
  const char* name() const override { return "linear_backward"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    std::vector<Meta> out;
    if (for_w_) out.push_back(contiguous_meta(DType::f32, in[2].shape()));
    if (bias_) out.push_back(contiguous_meta(DType::f32, {in[2].shape()[0]}));
    if (for_x_) out.push_back(contiguous_meta(DType::f32, in[1].shape()));
    return out;
  }
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  void key(Key& k) const override { k << relu_ << bias_ << for_x_ << for_w_; }
  bool differentiable() const override { return false; }  // the rule of linear has another way for that
  int64_t flops(std::span<const Meta> in, std::span<const Meta>) const override {
    return 2 * (int{for_x_} + int{for_w_}) * numel(in[2].shape) * in[0].shape[0];
  }

  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    const int64_t rows = in[0].shape[0], out = in[0].shape[1], wide = in[1].shape[1];
    constexpr int64_t enough = 96;  // blocks, to have work for most of a GPU
    const auto blocks_of = [&](int tile) {
      return (for_x_ ? tiles(rows, wide, tile) : 0) + (for_w_ ? tiles(out, wide, tile) : 0);
    };
    const int tile = blocks_of(32) < enough ? 16 : 32;
    const int64_t first = for_x_ ? tiles(rows, wide, tile) : 0, blocks = blocks_of(tile);
    const int64_t longest = std::max(for_x_ ? out : 0, for_w_ ? rows : 0);
    const int warps = tile == 16 && longest > 512 ? 16 : 8, depth = longest <= 16 * warps ? 1 : 2;
    const auto kernel = [&](bool aligned) {
      const auto pack = [&](const char* which, int64_t n) {
        return fmt::format("-DFLAME_{}={}", which, aligned && n % 4 == 0 ? 4 : 1);
      };
      return device_kernel(d, "ops/linear_backward.cu", "linear_backward", DType::f32,
                           {fmt::format("-DFLAME_RELU={}", int{relu_}), fmt::format("-DFLAME_BIAS={}", int{bias_}),
                            fmt::format("-DFLAME_X={}", int{for_x_}), pack("OUT", out), pack("IN", wide),
                            fmt::format("-DFLAME_TILE={}", tile), fmt::format("-DFLAME_WARPS={}", warps),
                            fmt::format("-DFLAME_DEPTH={}", depth)});
    };
    const Layer l{static_cast<int32_t>(rows), static_cast<int32_t>(wide), static_cast<int32_t>(out),
                  static_cast<int32_t>(first)};
    const int reads = relu_ ? 4 : 3, writes = for_w_ + bias_ + for_x_;
    const auto run = [=, bias = bias_, for_x = for_x_, for_w = for_w_, relu = relu_](const Kernel& k, const Run& r) {
      void* const* b = r.buffers;
      k({.blocks = blocks, .threads = 32 * warps}, l, b[0], b[1], b[2], relu ? b[3] : nullptr,
        for_w ? b[reads] : nullptr, bias ? b[reads + 1] : nullptr, for_x ? b[reads + writes - 1] : nullptr);
    };
    return make_ref<Plan>(name(), [=, wide = kernel(true), narrow = kernel(false)](const Run& r) {
      bool aligned = true;
      for (int i = 0; i < reads; ++i) aligned &= reinterpret_cast<uintptr_t>(r.buffers[i]) % 16 == 0;
      run(aligned ? *wide : *narrow, r);
    });
  }

 private:
  const bool relu_, bias_, for_x_, for_w_;
};

}  // namespace

bool one_launch_fits(const Tensor& g, const Tensor& x, const Tensor& weight) {
  constexpr int64_t longest = 1024, most = int64_t{1} << 27;  // sums, and multiplications
  if (g.device().kind() != Device::Kind::cuda || g.dtype() != DType::f32 || matmul_precision() != "high") return false;
  const int64_t out = weight.shape()[0], in = weight.shape()[1], rows = g.numel() / std::max<int64_t>(out, 1);
  if (rows == 0 || out == 0 || in == 0 || rows > longest || out > longest || 2 * rows * out * in > most) return false;
  return is_contiguous(x.shape(), x.strides()) && is_contiguous(weight.shape(), weight.strides());
}

LinearGradients one_launch_gradients(const Tensor& g, const Tensor& x, const Tensor& weight, const Tensor& y,
                                     bool for_x, bool for_bias, Loc loc) {
  const auto flat = [&](const Tensor& t) { return t.reshape({-1, t.shape().back()}, loc); };
  std::vector<Tensor> in{flat(g), flat(x), weight};
  if (y.defined()) in.push_back(flat(y));
  const auto launched = [&](bool bias, bool dx, bool dw) {
    return dispatch_multi(make_ref<SmallBackward>(y.defined(), bias, dx, dw), in, loc);
  };
  // What takes a GPU more than two turns is two launches, so that what comes behind dx need not wait for dw.
  constexpr int64_t at_once = int64_t{2} * 132;  // blocks
  const int64_t out_size = weight.shape()[0], wide = weight.shape()[1];
  const bool parted = for_x && tiles(in[0].shape()[0], wide, 32) + tiles(out_size, wide, 32) > 2 * at_once;
  const Tensor dx = parted ? launched(false, true, false)[0] : Tensor();
  const std::vector<Tensor> out = launched(for_bias, for_x && !parted, true);
  return {for_x ? (parted ? dx : out.back()).reshape(x.shape(), loc) : Tensor(), out[0], for_bias ? out[1] : Tensor()};
}

}  // namespace flame
