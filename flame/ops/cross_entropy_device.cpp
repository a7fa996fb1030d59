// Cross entropy of dense rows on a device that compiles text, as two ops whose kernels are in cross_entropy.cu.
#include "flame/autograd/node.h"
#include "flame/core/format.h"
#include "flame/ops/cross_entropy_internal.h"
#include "flame/ops/device_internal.h"
#include "flame/ops/normalize_internal.h"

namespace flame {
namespace {

// As in cross_entropy.cu.
struct Loss {
  int64_t rows, classes, ignored;
  double kept, share;
};

class ClassRowOp : public Op {
 public:
  explicit ClassRowOp(const ClassRows& c) : c_(c) {}
  Layout layout(int, const Meta&) const override { return Layout::contiguous; }
  void key(Key& k) const override { k << c_.ignored << c_.smoothing; }
  bool differentiable() const override { return false; }

 protected:
  struct Launch {
    Ref<Kernel> kernel;
    Grid grid;
    Loss loss;
  };
  Launch launch_of(Device& d, const char* entry, const Meta& logits) const {
    const int64_t classes = logits.shape.back(), rows = numel(logits.shape) / classes;
    const int threads = classes <= 1024 ? 32 : classes <= 8192 ? 128 : 512;
    return {device_kernel(
                d, "ops/cross_entropy.cu", entry, logits.dtype,
                {fmt::format("-DFLAME_THREADS={}", threads), fmt::format("-DFLAME_SMOOTH={}", int{c_.smoothing > 0})}),
            threads == 32 ? Grid{.blocks = blocks_for(rows, 8)} : Grid{.blocks = rows, .threads = threads},
            {rows, classes, c_.ignored, 1 - c_.smoothing, c_.smoothing / static_cast<double>(classes)}};
  }

 private:
  ClassRows c_;
};

// (logits, target) -> (loss, top, log_sum)
class ClassLosses final : public ClassRowOp {
 public:
  using ClassRowOp::ClassRowOp;
  const char* name() const override { return "cross_entropy_rows"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return std::vector<Meta>(3, contiguous_meta(compute_dtype_of(in[0].dtype()), in[1].shape()));
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    return make_ref<Plan>(name(), [l = launch_of(d, "forward", in[0])](const Run& r) {
      void* const* b = r.buffers;
      (*l.kernel)(l.grid, l.loss, b[0], b[1], b[2], b[3], b[4]);
    });
  }
};

// (logits, target, top, log_sum, factor) -> the logits' gradient
class ClassGradient final : public ClassRowOp {
 public:
  using ClassRowOp::ClassRowOp;
  const char* name() const override { return "cross_entropy_rows_backward"; }
  Layout layout(int input, const Meta&) const override { return input == 4 ? Layout::any : Layout::contiguous; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(in[0].dtype(), in[0].shape())};
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    const int64_t step = in[4].shape.rank() == 0 ? 0 : in[4].strides[0];
    return make_ref<Plan>(name(), [l = launch_of(d, "backward", in[0]), step](const Run& r) {
      void* const* b = r.buffers;
      (*l.kernel)(l.grid, l.loss, b[0], b[1], b[2], b[3], b[4], step, b[5]);
    });
  }
};

}  // namespace

bool class_rows_fit(const Tensor& logits, int axis) {
  return logits.device().kind() == Device::Kind::cuda && axis == logits.rank() - 1 && logits.numel() > 0 &&
         is_contiguous(logits.shape(), logits.strides());
}
ClassRowLosses class_row_losses(const ClassRows& c, const Tensor& logits, const Tensor& target, Loc loc) {
  const Tensor in[] = {logits.detach(), target.detach()};
  const std::vector<Tensor> out = dispatch_multi(make_ref<ClassLosses>(c), in, loc);
  return {out[0], out[1], out[2]};
}
Tensor class_row_gradient(const ClassRows& c, const Tensor& logits, const Tensor& target, const Tensor& top,
                          const Tensor& log_sum, const Tensor& factor, Loc loc) {
  return dispatch(make_ref<ClassGradient>(c), {logits, target, top, log_sum, factor}, loc);
}

}  // namespace flame
