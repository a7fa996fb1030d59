// Cross entropy of dense rows on a device that compiles text: the loss, its gradient, and both in one, by
// cross_entropy.cu.
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
    int64_t rows;  // a block's
  };
  Launch launch_of(Device& d, const char* entry, const Meta& logits, const char* more = nullptr) const {
    const int64_t classes = logits.shape.back(), rows = numel(logits.shape) / classes;
    const int threads = classes <= 1024 ? 32 : classes <= 8192 ? 128 : 512;
    std::vector<std::string> options{fmt::format("-DFLAME_THREADS={}", threads),
                                     fmt::format("-DFLAME_SMOOTH={}", int{c_.smoothing > 0})};
    if (more) options.emplace_back(more);
    const int64_t beside = threads == 32 ? 8 : 1;
    return {device_kernel(d, "ops/cross_entropy.cu", entry, logits.dtype, std::move(options)),
            {.blocks = blocks_for(rows, beside), .threads = threads * static_cast<int>(beside)},
            {rows, classes, c_.ignored, 1 - c_.smoothing, c_.smoothing / static_cast<double>(classes)},
            beside};
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

// (logits, target, factor of one element) -> (loss, the logits' gradient), which may lie where the logits do. A row
// stays in shared memory where the device has as much for a block.
class ClassLossesAndGradient final : public ClassRowOp {
 public:
  using ClassRowOp::ClassRowOp;
  const char* name() const override { return "cross_entropy_rows_both"; }
  std::vector<Meta> infer(std::span<const Tensor> in, Loc) const override {
    return {contiguous_meta(compute_dtype_of(in[0].dtype()), in[1].shape()),
            contiguous_meta(in[0].dtype(), in[0].shape())};
  }
  Ref<Plan> prepare_cuda(Device& d, std::span<const Meta> in, std::span<const Meta>) const override {
    Launch l = launch_of(d, "both", in[0], "-DFLAME_KEPT=1");
    const int64_t row = in[0].shape.back() * static_cast<int64_t>(size_of(in[0].dtype)),
                  kept = ((row + 15) / 16 + 1) * 16 * l.rows;
    if (kept <= l.kernel->most_shared()) l.grid.shared = static_cast<int>(kept);
    else l = launch_of(d, "both", in[0], "-DFLAME_KEPT=0");
    return make_ref<Plan>(name(), [l](const Run& r) {
      void* const* b = r.buffers;
      (*l.kernel)(l.grid, l.loss, b[0], b[1], b[2], b[3], b[4]);
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
LossesAndGradient class_row_losses_and_gradient(const ClassRows& c, Tensor logits, const Tensor& target,
                                                const Tensor& factor, Loc loc) {
  Tensor in[] = {std::move(logits), target.detach(), factor.detach()};
  std::vector<Tensor> out = dispatch_over(make_ref<ClassLossesAndGradient>(c), in, 0, 1, loc);
  return {std::move(out[0]), std::move(out[1])};
}

}  // namespace flame
